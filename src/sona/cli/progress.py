"""The progress bar of the commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress"]


@contextmanager
def progress(total: int, unit: str) -> Iterator[Callable[[], object]]:
    """Show progress on standard error and yield what advances it by one.

    Without tqdm (extra ``demo``) the bar is a plain counter on the same stream.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        yield from _counter(total, unit)
        return
    with tqdm(total=total, unit=f" {unit}", file=sys.stderr) as bar:
        yield bar.update


def _counter(total: int, unit: str) -> Iterator[Callable[[], object]]:
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done == total or done % max(1, total // 20) == 0:
            print(f"{done}/{total} {unit}", file=sys.stderr)

    yield advance
