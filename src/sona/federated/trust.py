"""What makes an export acceptable: the rows that a coordinator takes in, and why not the others."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from sona.errors import RangeError, ShapeError
from sona.federated.export import AgentExport

__all__ = ["screen"]

#: A longer embedding is no embedding: encoders give lengths from 1 to some hundreds.
MAX_NORM = 1e6


def screen(export: AgentExport, dim: int) -> tuple[NDArray[np.bool_], Counter[str]]:
    """Find the rows of an export that are well-formed.

    Parameters
    ----------
    export : AgentExport
    dim : int
        Dimension that embeddings must have.

    Returns
    -------
    valid : ndarray of shape (n,), bool
        Rows with finite embeddings of sane length and a quality in [0, 1].
    reasons : Counter of str
        Why the others are refused, and how many for each reason.

    Raises
    ------
    ShapeError
        If the embeddings have another dimension.
    RangeError
        If more than half of the rows are malformed: then nothing in the export is credible.
    """
    table = export.trajectories
    count = len(table)
    if count and export.dim != dim:
        raise ShapeError(
            f"`export.trajectories` must have embeddings of shape ({dim},); got ({export.dim},)"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", table.embeddings, table.embeddings, dtype=np.float64))
        faults = {
            "embedding not finite": ~np.isfinite(table.embeddings).all(axis=1),
            f"embedding longer than {MAX_NORM:g}": np.isfinite(norms) & (norms > MAX_NORM),
            "quality not finite": ~np.isfinite(table.quality),
            "quality outside [0, 1]": np.isfinite(table.quality)
            & ((table.quality < 0.0) | (table.quality > 1.0)),
        }
    valid = np.ones(count, np.bool_)
    reasons: Counter[str] = Counter()
    for reason, rows in faults.items():
        blamed = rows & valid  # a row counts once, for the first reason that applies
        if blamed.any():
            reasons[reason] = int(blamed.sum())
            valid &= ~rows
    bad = count - int(valid.sum())
    if 2 * bad > count:
        told = ", ".join(f"{reason} ({number})" for reason, number in reasons.items())
        raise RangeError(f"`export.trajectories` must be mostly well-formed; got {told} of {count}")
    return valid, reasons
