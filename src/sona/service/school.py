"""The service's side of the learner: starts it, tells it of news, starts another if it dies."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from sona.service.learner import Lesson
from sona.service.logs import decided

__all__ = ["School"]

_AGAIN_SECONDS = 0.5


class School:
    """The learner process of one folder; made and used by the event loop's thread.

    Parameters
    ----------
    folder : path
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loop = asyncio.get_running_loop()
        self._pupils: dict[str, Callable[[Lesson], None]] = {}
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def enrol(self, tenant: str, learned: Callable[[Lesson], None]) -> None:
        """Say that a tenant has news, and whom to tell of its lessons."""
        self._pupils[tenant] = learned
        self._tell(tenant)

    def _tell(self, tenant: str) -> None:
        if self._closed:
            return
        if self._process is None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(tenant + "\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it has just died; the next one is told of everybody

    def close(self) -> None:
        """End the process; what it had not learned yet waits in the store."""
        self._closed = True
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()

    def _start(self) -> None:
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", "sona.service.learner", os.fspath(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        decided("learner started", {"pid": process.pid})
        threading.Thread(target=self._listen, args=(process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lesson = msgspec.json.decode(line, type=Lesson)
            self._loop.call_soon_threadsafe(self._learned, lesson)
        process.stdout.close()
        if not self._closed:
            self._loop.call_soon_threadsafe(self._lost, process)

    def _learned(self, lesson: Lesson) -> None:
        if not self._closed:
            self._pupils[lesson.tenant](lesson)

    def _lost(self, process: subprocess.Popen[str]) -> None:
        if self._closed:
            return
        decided("learner lost", {"status": process.wait()}, logging.ERROR)
        assert process.stdin is not None
        process.stdin.close()
        self._loop.call_later(_AGAIN_SECONDS, self._again)

    def _again(self) -> None:
        self._process = None
        for tenant in self._pupils:
            self._tell(tenant)
