"""Writers that wait at the same time share one transaction, and so one wait for the disk."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from sona.federated.database import Database, Run

__all__ = ["Together"]

_T = TypeVar("_T")


class _Task(Generic[_T]):
    def __init__(self, work: Callable[[Run], _T]) -> None:
        self.work = work
        self.done = False
        self.error: Exception | None = None

    def outcome(self) -> _T:
        if self.error is not None:
            raise self.error
        return self.result

    def settle(self, result: _T) -> None:
        self.result = result
        self.done = True


class Together:
    """Commits what several threads want to write.

    Parameters
    ----------
    database : Database

    Notes
    -----
    Whoever comes while nobody writes writes at once, for itself and for all who wait; the others
    wait for that commit. If it fails, each is tried in a transaction of its own, so that one
    that cannot be written spoils no other.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: deque[_Task[object]] = deque()
        self._changed = threading.Condition()
        self._busy = False

    def commit(self, work: Callable[[Run], _T]) -> _T:
        """Run `work` in a transaction and return its result after the commit.

        Parameters
        ----------
        work : callable
            Takes what runs a statement. May run twice, the first time without any effect.

        Raises
        ------
        StoreError
            If it could not be committed; whatever `work` raises. Nothing was changed then.
        """
        task = _Task(work)
        with self._changed:
            self._waiting.append(task)  # type: ignore[arg-type]
            self._changed.wait_for(lambda: task.done or not self._busy)
            if task.done:
                return task.outcome()
            tasks = list(self._waiting)
            self._waiting.clear()
            self._busy = True
        try:
            self._write(tasks)
        finally:
            with self._changed:
                # Interrupted: those that had no turn take one of their own.
                self._waiting.extend(t for t in tasks if not t.done and t is not task)
                self._busy = False
                self._changed.notify_all()
        return task.outcome()

    def _write(self, tasks: list[_Task[object]]) -> None:
        try:
            with self._database.writing() as run:
                results = [task.work(run) for task in tasks]
        except Exception as error:
            if len(tasks) > 1:
                for task in tasks:
                    self._write([task])
            else:
                tasks[0].error, tasks[0].done = error, True
        else:
            for task, result in zip(tasks, results, strict=True):
                task.settle(result)
