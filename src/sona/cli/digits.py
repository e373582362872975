"""The demo's world: handwritten digits as requests, classifiers that know half of them as routes.

Everything is real: the images are scikit-learn's copy of the UCI digits, every route is a
classifier trained on five of the ten digits, and the quality of a request is whether that
classifier reads that image correctly. As in a fleet of models, some are strong and some weak: a
digit is known to one support vector machine and to one shallow decision tree.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sona.errors import MissingExtraError
from sona.types import FloatArray

__all__ = ["DigitFleet", "Traffic"]


class Traffic(NamedTuple):
    """Requests with the outcome that every route would have.

    Attributes
    ----------
    images : ndarray of shape (n, 64), float32
        Grey values 0 to 16, row by row.
    digits : ndarray of shape (n,), int64
        What the image shows; nobody but the experiment knows it.
    outcomes : ndarray of shape (n, n_routes), float64
        1.0 where the route reads the image correctly, else 0.0.
    """

    images: FloatArray
    digits: NDArray[np.int64]
    outcomes: NDArray[np.float64]

    def pick(self, rows: NDArray[Any]) -> Traffic:
        """Return the chosen rows."""
        return Traffic(self.images[rows], self.digits[rows], self.outcomes[rows])


class DigitFleet:
    """Digits split into what routes were trained on, what agents see, and what is held out.

    Parameters
    ----------
    seed : int
        Decides the split, the digits that each route knows and the slices of the agents.

    Attributes
    ----------
    routes : list of str
        Names that say what the classifier is and which digits it was trained on, for example
        ``"svm-02468"``.
    traffic, held_out : Traffic
        700 requests for agents to learn from; 497 that no agent ever sees.
    """

    def __init__(self, seed: int) -> None:
        try:
            from sklearn.datasets import load_digits
            from sklearn.svm import SVC
            from sklearn.tree import DecisionTreeClassifier
        except ImportError:
            raise MissingExtraError(
                "the demo needs scikit-learn; install it with: pip install 'sona[demo]'"
            ) from None
        images, digits = load_digits(return_X_y=True)
        self._rng = np.random.default_rng(seed)
        order = self._rng.permutation(len(images))
        training = order[:600]
        self.routes: list[str] = []
        columns = []
        readers = {"svm": SVC(C=10.0), "tree": DecisionTreeClassifier(max_depth=3, random_state=0)}
        for kind, reader in readers.items():
            for known in self._halves():
                rows = training[np.isin(digits[training], known)]
                reader.fit(images[rows], digits[rows])
                columns.append(reader.predict(images) == digits)
                self.routes.append(f"{kind}-" + "".join(str(digit) for digit in known))
        everything = Traffic(
            images.astype(np.float32), digits, np.stack(columns, axis=1).astype(np.float64)
        )
        self.traffic = everything.pick(order[600:1300])
        self.held_out = everything.pick(order[1300:])

    def slice(self, n_requests: int) -> Traffic:
        """Requests of one agent: two or three digits only, drawn with replacement."""
        seen = self._rng.choice(10, size=self._rng.integers(2, 4), replace=False)
        rows = np.flatnonzero(np.isin(self.traffic.digits, seen))
        return self.traffic.pick(self._rng.choice(rows, size=n_requests))

    def _halves(self) -> list[list[int]]:
        """Cut the ten digits in two at random."""
        half = set(self._rng.permutation(10)[:5].tolist())
        return [sorted(half), sorted(set(range(10)) - half)]
