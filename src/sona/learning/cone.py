"""The narrow cone that embeddings share.

Most encoders turn every text to much the same side: any two embeddings have a cosine well above
zero, and what tells them apart is the little by which they differ. Similarities differ the less
the narrower the cone is, so a softmax over them needs its temperature in proportion.

References
----------
Ethayarajh, "How contextual are contextualized word representations?", EMNLP 2019.
"""

from __future__ import annotations

import numpy as np

from sona.types import FloatArray

__all__ = ["LEAST_SPREAD", "spread_of"]

#: Patterns that are closer together than this are one; nothing is to be told apart.
LEAST_SPREAD = 1e-3


def spread_of(patterns: FloatArray) -> float:
    """Return the mean of 1 - cos over pairs of patterns of unit length, shape (m, dim).

    Between 0.001 and 2; 1.0 where there is no pair. Costs one pass over them.
    """
    m = len(patterns)
    if m < 2:
        return 1.0
    mean = patterns.mean(axis=0, dtype=np.float64)
    shared = (m * float(mean @ mean) - 1.0) / (m - 1.0)
    return max(1.0 - shared, LEAST_SPREAD)
