"""The service's side of the learner: starts it, tells it of news, starts another if it dies."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sona import wire
from sona.service.learner import Lesson
from sona.service.logs import decided

__all__ = ["School"]

#: Time before a learner that died is replaced; doubled while they go on dying.
_AGAIN_SECONDS, _MOST_SECONDS = 0.5, 60.0
#: A learner takes one processor, whatever BLAS it calls: several learn hardly faster and leave none
#: to those who commit and answer. Who sets one of these decides for himself.
_ONE_THREAD = {f"{blas}_NUM_THREADS": "1" for blas in ("OPENBLAS", "MKL", "OMP")}


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
        # Told and not heard of since; with more news meanwhile. So a learner that does not read
        # is sent one line for each tenant, and the pipe never fills.
        self._told: set[str] = set()
        self._news: set[str] = set()
        self._process: subprocess.Popen[str] | None = None
        self._pause = _AGAIN_SECONDS
        self._closed = False

    def enrol(self, tenant: str, learned: Callable[[Lesson], None]) -> None:
        """Say that a tenant has news, and whom to tell of its lessons."""
        self._pupils[tenant] = learned
        self._tell(tenant)

    def close(self) -> None:
        """End the process; what it had not learned yet waits in the store."""
        self._closed = True
        if self._process is not None:
            self._hang_up(self._process)
            try:
                self._process.wait(5.0)
            except subprocess.TimeoutExpired:  # stopped from outside
                self._process.kill()
                self._process.wait()

    def _tell(self, tenant: str) -> None:
        if self._closed:
            return
        if tenant in self._told:
            self._news.add(tenant)
            return
        self._told.add(tenant)
        try:
            if self._process is None:
                self._process = self._start()
            assert self._process.stdin is not None
            self._process.stdin.write(tenant + "\n")
            self._process.stdin.flush()
        except OSError as error:
            if self._process is None:
                decided("no learner", {"detail": str(error)}, logging.ERROR)
                self._loop.call_later(self._pause, self._again)
            # else it has just died; the next one is told of everybody

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "sona.service.learner", os.fspath(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**_ONE_THREAD, **os.environ},
        )
        decided("learner started", {"pid": process.pid})
        threading.Thread(target=self._listen, args=(process,), daemon=True).start()
        return process

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lesson = wire.decoder(Lesson).decode(line)
            self._loop.call_soon_threadsafe(self._learned, lesson)
        process.stdout.close()
        if not self._closed:
            self._loop.call_soon_threadsafe(self._lost, process)

    def _learned(self, lesson: Lesson) -> None:
        if self._closed:
            return
        self._pause = _AGAIN_SECONDS
        self._told.discard(lesson.tenant)
        if lesson.tenant in self._news:
            self._news.remove(lesson.tenant)
            self._tell(lesson.tenant)
        self._pupils[lesson.tenant](lesson)

    def _lost(self, process: subprocess.Popen[str]) -> None:
        if self._closed:
            return
        decided("learner lost", {"status": process.wait()}, logging.ERROR)
        self._hang_up(process)
        self._loop.call_later(self._pause, self._again)
        self._pause = min(2.0 * self._pause, _MOST_SECONDS)

    def _again(self) -> None:
        self._process = None
        self._told.clear()
        self._news.clear()
        for tenant in self._pupils:
            self._tell(tenant)

    @staticmethod
    def _hang_up(process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        with suppress(OSError):  # what is buffered for one that died has no reader
            process.stdin.close()
