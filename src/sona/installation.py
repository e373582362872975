"""What is installed, and what it uses on this machine."""

from __future__ import annotations

import os
import platform

import numpy as np

from sona import __version__, _core

__all__ = ["show_config"]


def show_config() -> dict[str, str]:
    """Print and return version, backend and instruction sets.

    Returns
    -------
    dict of str to str
        ``version``, ``backend`` (``native`` or ``numpy``), ``capability`` (the instruction set
        in use), ``capabilities`` (those that this CPU and this build have), ``cap`` (the value
        of ``SONA_CAPABILITY``, where it limits the choice), ``python``, ``numpy``.

    Examples
    --------
    >>> import sona
    >>> config = sona.show_config()  # doctest: +ELLIPSIS
    version       ...
    >>> config["backend"] in ("native", "numpy")
    True
    """
    config = {
        "version": __version__,
        "backend": _core.backend,
        "capability": _core.capability() or "none: kernels run in NumPy",
        "capabilities": " ".join(_core.capabilities()) or "none",
        "cap": os.environ.get("SONA_CAPABILITY") or "none",
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    for name, value in config.items():
        print(f"{name:13s} {value}")
    return config
