"""A service's folder: where things are, how it is copied, and what is wrong with it.

.. code-block:: text

    STORE/
      lock                 held while a service runs; the kernel frees it when the process dies
      holder               which process took the lock last
      tokens.db            who may speak for whom
      tenants/NAME/        config.json, store.db (what was accepted), history.db (what happened),
                           published.sona (the last warm start; can be made again)
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from sona import state, wire
from sona.config import SonaConfig
from sona.errors import SonaError, StoreError
from sona.federated.store import open_store

__all__ = [
    "CONFIG",
    "HISTORY",
    "PUBLISHED",
    "STORE",
    "TENANTS",
    "TOKENS",
    "backup",
    "check",
    "hold",
    "restore",
    "tenants_of",
]

TOKENS, TENANTS = "tokens.db", "tenants"
CONFIG, STORE, HISTORY = "config.json", "store.db", "history.db"
PUBLISHED = "published.sona"


def tenants_of(folder: Path) -> list[str]:
    """Return the names of the tenants that a folder holds."""
    root = folder / TENANTS
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if (path / CONFIG).exists())


def hold(folder: Path) -> int:
    """Lock a folder until the process ends or the handle that is returned is closed.

    Raises
    ------
    StoreError
        If another process holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreError(f"`store`: cannot use {str(folder)!r}: {error}") from error
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = (folder / "holder").read_text() if (folder / "holder").exists() else "unknown"
        os.close(handle)
        raise StoreError(
            f"`store`: another service uses {str(folder)!r} (process {holder}); one service owns a"
            " folder"
        ) from None
    (folder / "holder").write_text(f"{os.getpid()} on {platform.node()}")
    return handle


def backup(folder: Path, target: Path) -> list[str]:
    """Copy a folder, also while a service runs on it; returns the tenants copied.

    Each file of the copy is consistent in itself. The copy appears under its name only when it
    is complete.

    Raises
    ------
    StoreError
        If `folder` is no service's folder, `target` exists, or something cannot be copied.
    """
    _require(folder)
    with _complete(target) as copy:
        _copy_database(folder / TOKENS, copy / TOKENS)
        names = tenants_of(folder)
        for name in names:
            source, made = folder / TENANTS / name, copy / TENANTS / name
            made.mkdir(parents=True)
            state.write(made / CONFIG, (source / CONFIG).read_bytes())
            for database in (STORE, HISTORY):
                if (source / database).exists():
                    _copy_database(source / database, made / database)
    return names


def restore(copy: Path, folder: Path) -> list[str]:
    """Make a folder from what :func:`backup` wrote; returns its tenants.

    Raises
    ------
    StoreError
        If the copy is damaged, or `folder` exists already: nothing is ever written over.
    """
    _require(copy)
    faults = check(copy)
    if faults:
        raise StoreError(f"`backup`: {str(copy)!r} is damaged: {'; '.join(faults)}")
    return backup(copy, folder)


def check(folder: Path) -> list[str]:
    """Read everything in a folder and return what is wrong, one line each."""
    _require(folder)
    found = [f"{TOKENS}: {fault}" for fault in _database_faults(folder / TOKENS)]
    for name in tenants_of(folder):
        root = folder / TENANTS / name
        try:
            wire.decoder(SonaConfig).decode((root / CONFIG).read_bytes())
        except (msgspec.DecodeError, SonaError, OSError) as error:
            found.append(f"{name}/{CONFIG}: {error}")
        if (root / HISTORY).exists():
            found += [f"{name}/{HISTORY}: {fault}" for fault in _database_faults(root / HISTORY)]
        if (root / STORE).exists():
            found += [f"{name}/{STORE}: {fault}" for fault in store_faults(root / STORE)]
    return found


def store_faults(where: str | Path) -> list[str]:
    """Read one coordinator's store and return what is wrong with it, one line each."""
    try:
        store = open_store(os.fspath(where))
        try:
            return store.check()
        finally:
            store.close()
    except SonaError as error:
        return [str(error)]


def _require(folder: Path) -> None:
    if not (folder / TOKENS).exists():
        raise StoreError(f"`store`: {str(folder)!r} is no service's folder: it has no {TOKENS}")


@contextmanager
def _complete(target: Path) -> Iterator[Path]:
    """Yield a folder that gets the target's name only when the block has ended well."""
    if target.exists():
        raise StoreError(f"`target`: {str(target)!r} exists; nothing is written over")
    partial = target.with_name(target.name + ".partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        os.rename(partial, target)
    except OSError as error:
        raise StoreError(f"`target`: cannot write {str(target)!r}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy_database(source: Path, target: Path) -> None:
    import sqlite3  # not at import of sona: only those who serve need it

    try:
        held = sqlite3.connect(source, timeout=30.0)
        made = sqlite3.connect(target)
        try:
            held.backup(made)
        finally:
            made.close()
            held.close()
    except sqlite3.Error as error:
        raise StoreError(f"`store`: cannot copy {str(source)!r}: {error}") from error


def _database_faults(path: Path) -> list[str]:
    import sqlite3

    try:
        database = sqlite3.connect(path, timeout=30.0)
        try:
            lines = [row[0] for row in database.execute("PRAGMA integrity_check")]
        finally:
            database.close()
    except sqlite3.Error as error:
        return [str(error)]
    return [] if lines == ["ok"] else lines
