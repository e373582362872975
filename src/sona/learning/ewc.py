"""EWC++: what earlier tasks needed stays, without keeping their data.

After a task was learned at W*, its loss rises along a change D = W - W* of the adapter's map by
about 1/2 sum_i E[(g_i . D x_i)^2], where x_i are the task's inputs and g_i the gradients of its
decisions: the Fisher information. Kept as a Kronecker product per task, G = E[g g^T] with
C = sum x x^T, each as a few principal directions, the penalty

    P(A, B) = strength / 2 * sum_tasks tr(G D C D^T),    D = s B A - s* B* A*

says what single weights cannot: a change of the map is expensive only if it acts on inputs that
the task had *and* moves them where its decisions would turn. A diagonal Fisher of A and B, the
usual choice, closes less than half as much of the gap to joint training here.

A task ends where the inputs change: blocks of the stream whose mean leaves the running mean of
the task by more than chance and by more than a tenth of the inputs' spread begin the next one.

References
----------
Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017;
Ritter, Botev and Barber, "Online structured Laplace approximations", NeurIPS 2018;
Chaudhry et al., "Riemannian walk for incremental learning" (EWC++), ECCV 2018.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sona.checks import check_count, check_number
from sona.learning.stored import require_stored, stored
from sona.types import FloatArray

__all__ = ["OnlineEWC"]

# Directions kept of the gradients and of the inputs of a task. Gradients lie in the span of the
# patterns; 32 and 96 measure like full matrices at 384 dimensions, and cost a tenth.
_GRADIENT_RANK = 32
_INPUT_RANK = 96
# Tasks kept apart; past that the two oldest are blurred into one.
_MAX_TASKS = 12
# Lessons that a task weighs at most. Without a bound protection would grow until nothing that
# contradicts an old answer could be learned any more.
_MEMORY = 5_000.0
# Where what is saved of a task lies; gradients of unit vectors and their sums do not reach it.
_FISHER = (-1e6, 1e6)
# Inputs whose mean is compared with the task's, at least.
_BLOCK = 48


@dataclass(eq=False)
class _Task:
    """Fisher factors G = U U^T, C = V V^T of one task, and the moments of its inputs."""

    gradients: FloatArray
    inputs: FloatArray
    count: float
    mean: FloatArray


class OnlineEWC:
    """Protects one map of adapters: Fisher per task, task boundaries, penalty.

    Parameters
    ----------
    dim : int
        Length of the adapter's inputs and outputs.
    strength : float, default 1.0
        Factor of the penalty; 0 protects nothing.

    Notes
    -----
    Memory: at most 12 * 128 * dim floats. Not thread-safe.
    """

    def __init__(self, dim: int, strength: float = 1.0) -> None:
        self.dim = check_count("dim", dim)
        self.strength = check_number("strength", strength, 0.0, 1e9)
        self._tasks: list[_Task] = []
        self._anchor: tuple[FloatArray, FloatArray] | None = None
        #: Boundaries found so far.
        self.boundaries = 0

    @property
    def is_active(self) -> bool:
        """Whether there is something to protect."""
        return self.strength > 0.0 and self._anchor is not None

    @property
    def anchor(self) -> tuple[FloatArray, FloatArray] | None:
        """A and s B as they were after the last task; None before the first."""
        return self._anchor

    def gradient(self, A: FloatArray, B: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return dP/dA and dP/dB at the map B A (scaling folded into B).

        Parameters
        ----------
        A, B : ndarray of float32, shapes (rank, dim) and (dim, rank)

        Returns
        -------
        tuple of ndarray of float32, shapes (rank, dim) and (dim, rank)

        Notes
        -----
        Costs about 8 * 128 * rank * dim operations per task; D itself is never formed.
        """
        gA, gB = np.zeros_like(A), np.zeros_like(B)
        if not self.is_active or self._anchor is None:
            return gA, gB
        left, right = self._difference(A, B)
        for task in self._tasks:
            L = task.gradients @ (task.gradients.T @ left)
            R = (right @ task.inputs) @ task.inputs.T
            gA += (B.T @ L) @ R
            gB += L @ (R @ A.T)
        strength = np.float32(self.strength)
        return strength * gA, strength * gB

    def penalty(self, A: FloatArray, B: FloatArray) -> float:
        """Return P at the map B A."""
        if not self.is_active:
            return 0.0
        left, right = self._difference(A, B)
        total = 0.0
        for task in self._tasks:
            core = (task.gradients.T @ left) @ (right @ task.inputs)
            total += float(np.sum(core * core))
        return 0.5 * self.strength * total

    def split(self, units: FloatArray) -> list[slice]:
        """Cut a stream of inputs where it changes.

        Parameters
        ----------
        units : ndarray of float32, shape (n, dim)
            Inputs of unit length, in the order in which they came.

        Returns
        -------
        list of slice
            Together they cover the stream. The first continues the current task unless
            :meth:`continues` says otherwise.
        """
        cuts, start, n = [], 0, len(units)
        for end in range(2 * _BLOCK, n + 1, _BLOCK // 2):
            before, block = units[start : end - _BLOCK], units[end - _BLOCK : end]
            if len(before) >= _BLOCK and _differ(before.mean(axis=0), len(before), block):
                cut = end - 2 * _BLOCK + _turn(before.mean(axis=0), units[end - 2 * _BLOCK : end])
                cuts.append(slice(start, cut))
                start = cut
        cuts.append(slice(start, n))
        return cuts

    def continues(self, units: FloatArray) -> bool:
        """Whether inputs of unit length look like those of the current task."""
        if not self._tasks:
            return False
        task = self._tasks[-1]
        return not _differ(task.mean, task.count, units)

    def learned(
        self, A: FloatArray, B: FloatArray, units: FloatArray, inputs: FloatArray, grads: FloatArray
    ) -> None:
        """Take in what one stretch of the stream needs, and hold the adapter where it is.

        Parameters
        ----------
        A, B : ndarray of float32, shapes (rank, dim) and (dim, rank)
            The adapter after learning, scaling folded into B.
        units, inputs, grads : ndarray of float32, shape (n, dim)
            Inputs at unit length, as they enter the adapter, and dL/dy of each.
        """
        if len(units):
            n = len(units)
            U = _principal(grads / np.float32(np.sqrt(n)), _GRADIENT_RANK)
            V = _principal(inputs, _INPUT_RANK)
            fresh = _Task(U, V, float(n), units.mean(axis=0))
            if self.continues(units):
                self._tasks[-1] = _blend(self._tasks[-1], fresh)
            else:
                self.boundaries += bool(self._tasks)
                self._tasks.append(fresh)
                if len(self._tasks) > _MAX_TASKS:
                    self._tasks[:2] = [_blend(self._tasks[0], self._tasks[1])]
        self._anchor = (A.copy(), B.copy())

    def arrays(self) -> dict[str, FloatArray]:
        """Return the state as named arrays; :meth:`restore` takes it back."""
        state = {"boundaries": np.array([self.boundaries], np.float32)}
        if self._anchor is not None:
            state["anchor_A"], state["anchor_B"] = self._anchor
        for i, task in enumerate(self._tasks):
            state[f"task{i}_gradients"] = task.gradients
            state[f"task{i}_inputs"] = task.inputs
            state[f"task{i}_mean"] = np.append(task.mean, np.float32(task.count))
        return state

    def restore(self, state: dict[str, FloatArray]) -> None:
        """Continue from what :meth:`arrays` returned.

        Raises
        ------
        FormatError
            An array is missing, does not fit or could not have been saved; nothing was changed.
        """
        dim = self.dim
        boundaries = int(stored(state, "boundaries", np.float32, (1,), 0.0)[0])
        anchor = None
        if "anchor_A" in state:
            A = stored(state, "anchor_A", np.float32, (None, dim))
            anchor = A, stored(state, "anchor_B", np.float32, (dim, len(A)))
        tasks: list[_Task] = []
        while f"task{len(tasks)}_mean" in state:
            key = f"task{len(tasks)}_"
            mean = stored(state, key + "mean", np.float32, (dim + 1,))
            require_stored(mean[-1] > 0.0, "a task without inputs")
            G = stored(state, key + "gradients", np.float32, (dim, None), *_FISHER)
            C = stored(state, key + "inputs", np.float32, (dim, None), *_FISHER)
            tasks.append(_Task(G, C, float(mean[-1]), mean[:-1]))
        require_stored(anchor is not None or not tasks, "tasks without an anchor")
        self._tasks, self._anchor, self.boundaries = tasks, anchor, boundaries

    def _difference(self, A: FloatArray, B: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return factors of D: left (dim, 2 rank) times right (2 rank, dim)."""
        assert self._anchor is not None
        A0, B0 = self._anchor
        return np.concatenate([B, -B0], axis=1), np.concatenate([A, A0], axis=0)


def _differ(mean: FloatArray, count: float, units: FloatArray) -> bool:
    """Whether the mean of `units` lies further from `mean` than chance, and far enough to matter.

    Under one distribution E|m1 - m2|^2 = tr(S) (1 / n1 + 1 / n2), with tr(S) = 1 - |m|^2 for unit
    vectors; twice that is beyond three standard deviations in ten effective dimensions.
    """
    n = len(units)
    if n == 0:
        return False
    other = units.mean(axis=0)
    gap = float(np.sum((mean - other) ** 2))
    spread = max(1.0 - float(other @ other), 1.0 - float(mean @ mean), 1e-6)
    chance = spread * (1.0 / n + 1.0 / count)
    return gap > 2.0 * chance + 0.02 * spread


def _turn(mean: FloatArray, units: FloatArray) -> int:
    """Return where `units` leave a mean for that of their own end: the likeliest change point."""
    end = units[-_BLOCK // 2 :].mean(axis=0)
    toward = (units - 0.5 * (mean + end)) @ (end - mean)
    return int(np.argmax(np.cumsum(toward[::-1])[::-1]))


def _principal(rows: FloatArray, rank: int) -> FloatArray:
    """Return U of shape (dim, <= rank) with U U^T the best such approximation of rows^T rows."""
    n, dim = rows.shape
    if n < dim:
        weights, vectors = np.linalg.eigh((rows @ rows.T).astype(np.float64))
        keep = weights[-rank:] > 1e-12
        return np.asarray(rows.T @ vectors[:, -rank:][:, keep].astype(np.float32), np.float32)
    weights, vectors = np.linalg.eigh((rows.T @ rows).astype(np.float64))
    scale = np.sqrt(np.maximum(weights[-rank:], 0.0))
    return np.asarray(vectors[:, -rank:] * scale, np.float32)


def _blend(a: _Task, b: _Task) -> _Task:
    """Return one task for two, the older first: gradients averaged by count, inputs summed."""
    kept = min(a.count, max(_MEMORY - b.count, 0.0))
    faded = np.float32(np.sqrt(kept / a.count))
    total = kept + b.count
    share = np.sqrt(np.float32(kept / total)), np.sqrt(np.float32(b.count / total))
    U = np.concatenate([share[0] * a.gradients.T, share[1] * b.gradients.T])
    V = np.concatenate([faded * a.inputs.T, b.inputs.T])
    mean = np.asarray((kept * a.mean + b.count * b.mean) / total, np.float32)
    return _Task(_principal(U, _GRADIENT_RANK), _principal(V, _INPUT_RANK), total, mean)
