"""What makes an export acceptable: the rows that a coordinator takes in, and why not the others.

This is the first line: it looks at one export alone. What several agents say of each other is
judged at consolidation, in :mod:`sona.federated.reputation`.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sona.errors import RangeError, ShapeError
from sona.federated.export import AgentExport
from sona.federated.records import Summary

__all__ = ["MAX_ROUTES", "MAX_STRIKES", "Judged", "judge", "outcomes", "screen", "summarise"]

#: A longer embedding is no embedding: encoders give lengths from 1 to some hundreds.
MAX_NORM = 1e6
#: A session has fewer outcomes: what a sketch claims beyond would outweigh a whole fleet.
MAX_OUTCOMES = 1_000_000
#: Route names of one agent: in an export it is refused for more, over all its sessions it is left
#: out. Every name costs every coordinator and every agent that starts warm memory and time.
MAX_ROUTES = 256
#: Exports refused whole before everything from the agent is.
MAX_STRIKES = 3
_STEPS = 100


class Judged(NamedTuple):
    """An export that may be taken in.

    Attributes
    ----------
    export : AgentExport
    valid : ndarray of shape (n,), bool
        Rows that are well-formed.
    summary : Summary
        Of those.
    reasons : Counter of str
        Why other rows are not accepted, and how many for each reason.
    """

    export: AgentExport
    valid: NDArray[np.bool_]
    summary: Summary
    reasons: Counter[str]


def judge(export: AgentExport, dim: int, threshold: float) -> Judged:
    """Screen and summarise an export; raises what :func:`screen` does."""
    valid, reasons = screen(export, dim)
    summary = summarise(export, valid, threshold)
    if summary.rows > summary.accepted:
        reasons["quality below threshold"] = summary.rows - summary.accepted
    return Judged(export, valid, summary, reasons)


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
        Rows with finite embeddings of sane length and a quality in [0, 1]; of a compact export
        its cells, row by row.
    reasons : Counter of str
        Why the others are refused, and how many for each reason.

    Raises
    ------
    ShapeError
        If the embeddings have another dimension.
    RangeError
        If more than half of the rows are malformed: then nothing in the export is credible. A
        compact export is credible as a whole or not at all. Or if it names more than 256 routes.
    """
    if export.rows and export.dim != dim:
        raise ShapeError(
            f"`export.trajectories` must have embeddings of shape ({dim},); got ({export.dim},)"
        )
    named = set(export.trajectories.routes if export.sketch is None else export.sketch.routes)
    if len(named - {None}) > MAX_ROUTES:
        raise RangeError(
            f"`export.trajectories` must name at most {MAX_ROUTES} routes; got {len(named)}"
        )
    if _plainly_sane(export):
        return np.ones(len(export.trajectories), np.bool_), Counter()
    faults = _faults(export)
    valid = np.ones(len(next(iter(faults.values()))), np.bool_)
    reasons: Counter[str] = Counter()
    for reason, rows in faults.items():
        blamed = rows & valid  # a row counts once, for the first reason that applies
        if blamed.any():
            reasons[reason] = int(blamed.sum())
            valid &= ~rows
    count, bad = len(valid), len(valid) - int(valid.sum())
    if 2 * bad > count or (bad and export.sketch is not None):
        told = ", ".join(f"{reason} ({number})" for reason, number in reasons.items())
        raise RangeError(f"`export.trajectories` must be mostly well-formed; got {told} of {count}")
    return valid, reasons


def outcomes(
    export: AgentExport, valid: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the quality of well-formed outcomes, and how often each occurred."""
    if export.sketch is None:
        quality = export.trajectories.quality[valid]
        return quality, np.ones(len(quality), np.int64)
    counts = export.sketch.counts
    tried = counts > 0
    return export.sketch.means[tried].astype(np.float64), counts[tried].astype(np.int64)


def summarise(export: AgentExport, valid: NDArray[np.bool_], threshold: float) -> Summary:
    """Say in a few hundred bytes what an export's well-formed outcomes amount to."""
    quality, times = outcomes(export, valid)
    steps = np.rint(quality * _STEPS).astype(np.int64)
    histogram = np.bincount(steps, times, _STEPS + 1).astype(np.uint32)
    table, compact = export.trajectories, export.sketch is not None
    stamps = table.timestamps[:0] if compact else table.timestamps[valid]
    return Summary(
        rows=int(times.sum()),
        accepted=int(times[quality >= threshold].sum()),
        threshold=threshold,
        total=float((quality * times).sum()),
        histogram=histogram.tobytes(),
        first=int(stamps.min()) if len(stamps) else export.timestamp,
    )


def _plainly_sane(export: AgentExport) -> bool:
    """Whether the largest and the smallest number show that no row has a fault; most do."""
    table = export.trajectories
    if export.sketch is not None or not table.embeddings.size:
        return False
    most = MAX_NORM / export.dim  # no vector of such numbers is too long; NaN compares with nothing
    return bool(
        table.embeddings.max() <= most
        and table.embeddings.min() >= -most
        and table.quality.max() <= 1.0
        and table.quality.min() >= 0.0
    )


def _faults(export: AgentExport) -> dict[str, NDArray[np.bool_]]:
    if export.sketch is not None:
        lengths = export.sketch.lengths.astype(np.float32)
        means = export.sketch.means.astype(np.float32)
        return {
            f"more than {MAX_OUTCOMES:,} outcomes": np.full(
                len(lengths), int(export.sketch.counts.sum(dtype=np.uint64)) > MAX_OUTCOMES
            ),
            "length of a mean not in [0, 1]": ~((lengths >= 0.0) & (lengths <= 1.0)),
            "quality outside [0, 1]": np.any(~((means >= 0.0) & (means <= 1.0)), axis=1),
        }
    table = export.trajectories
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", table.embeddings, table.embeddings, dtype=np.float64))
        finite = np.isfinite(norms)  # no square of a finite float32 overflows a float64
        return {
            "embedding not finite": ~finite,
            f"embedding longer than {MAX_NORM:g}": finite & (norms > MAX_NORM),
            "quality not finite": ~np.isfinite(table.quality),
            "quality outside [0, 1]": np.isfinite(table.quality)
            & ((table.quality < 0.0) | (table.quality > 1.0)),
        }
