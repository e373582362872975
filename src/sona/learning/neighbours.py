"""What was tried near a query: the nearest remembered outcomes and the kernel that weighs them.

The kernel falls with distance relative to that of the 16th neighbour, so that it fits every
embedding and narrows as memory fills. How fast it falls is what the log itself foretells best:
where one outcome says all about its neighbours (intents) a narrow kernel wins, where several
routes work and luck decides between them (classifiers of different strength) a wider one does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sona import _core
from sona.learning.buffer import TrajectoryBuffer

__all__ = [
    "MEMORY_PRIOR",
    "NEAREST",
    "NEIGHBOURS",
    "WIDTHS",
    "foretelling_width",
]

_Floats = NDArray[np.float64]

#: Widths to choose from, as shares of the distance of the 16th neighbour; the first one holds
#: until a log has been looked at. Wider ones foretell random logs better still, and decide worse.
WIDTHS = (0.1, 0.2)
#: What is near: as far as this neighbour.
NEAREST = 16
#: Remembered rows that a decision looks at.
NEIGHBOURS = 64
#: Kernel mass that what was never tried is worth.
MEMORY_PRIOR = 0.05
# Outcomes that the choice of a width is judged by: its standard error is then below the gain.
_JUDGED = 512


def foretelling_width(buffer: TrajectoryBuffer) -> float:
    """Return the width at which successes near a query foretell best which route succeeds on it.

    Judged on up to 512 remembered rows, evenly spaced, each left out of its own neighbours and
    counted by its quality. Costs one search of the memory for these rows.
    """
    if len(buffer) <= NEAREST:
        return WIDTHS[0]
    route, quality = buffer.columns("route"), np.clip(buffer.columns("quality"), 0.0, 1.0)
    success = quality * buffer.columns("weight")
    share = (np.bincount(route, success) + 1.0) / (success.sum() + route.max() + 1.0)
    rows = np.linspace(0, len(buffer) - 1, min(len(buffer), _JUDGED)).astype(np.int64)
    near, similarities = buffer.nearest(buffer.embeddings[rows], NEIGHBOURS + 1)
    others = near != rows[:, None]
    same = route[near] == route[rows][:, None]
    evidence = []
    for width in WIDTHS:
        weight = _core.neighbour_weights(similarities, NEAREST, width) * others
        doubt = MEMORY_PRIOR * weight.sum(axis=1) + 1e-9
        votes = weight * success[near]
        told = (votes * same).sum(axis=1) + doubt * share[route[rows]]
        evidence.append(float(quality[rows] @ np.log(told / (votes.sum(axis=1) + doubt))))
    return WIDTHS[int(np.argmax(evidence))]
