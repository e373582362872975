"""The two tiers of adapters and how they learn together.

A query is decided at u = normalise(micro(base(x))). Micro-LoRA learns on top of base-LoRA from
every outcome, at once. The background loop fits micro-LoRA to all that is remembered, alone, and
base-LoRA beneath it to what is left: each tier helps by itself, micro-LoRA before the first cycle.

    outcome --> learn        one bounded step of micro            microseconds
    cycle   --> consolidate  is the feedback to be trusted?       correlation with the bank
                             how much of a fit generalises?       fitted on halves, tried on halves
                             fit micro to the bare queries        Adam on all that is remembered
                             fit base beneath it, kept by EWC++   Adam on lessons and rehearsal
                             adopt both

Other layers have a base-LoRA each; it learns by the same rule from the layer's activations, the
rewards of its steps and the centroids of its own patterns.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sona import _core, wire
from sona.errors import FormatError
from sona.learning.cone import spread_of
from sona.learning.consolidation import Tiers, TiersFit, agrees, losses
from sona.learning.ewc import OnlineEWC
from sona.learning.lora import (
    DAMPING,
    MICRO_TEMPERATURE,
    MOST_IN_SIGHT,
    BaseLoRA,
    MicroLoRA,
    composed,
    factors,
)
from sona.learning.signal import Lessons, TrustGate, query_gradient, unit
from sona.learning.stored import stored
from sona.types import FloatArray, LayerKey

__all__ = ["Adaptation", "Fitted"]

# Share of micro-LoRA that one distrusted outcome forgets: half in 140 outcomes.
_FADE = 0.005
# Outcomes until micro-LoRA takes full steps. Early steps are mostly noise: at the full rate one
# seed in ten lost a point on its first 500 outcomes, and with half of it two points are gained.
_CAUTIOUS = 2_000
# Share of micro-LoRA's rate once a background fit has set its weights. A fit weighs thousands of
# outcomes together; single ones at the full rate undo part of it (`stream`).
_SETTLED = 0.3
# Remembered lessons that rehearse with the fresh ones. EWC and 1,000 measure better together
# than either alone; 10,000 add nothing where domains change.
_REHEARSAL = 1_000
# Micro-LoRA's rate in the background fit, where base-LoRA has its own.
_MICRO_FIT_RATE = 0.003
# Precision that lambda = 1 gives the Fisher information: the factor between 1 and 3 measured
# alike; the Kronecker form underestimates what independent weights lose together.
_EWC_SCALE = 2.0
# Where the weights of a saved adapter lie: beyond it two adapters could overflow float32.
_FACTOR = (-1e10, 1e10)


@dataclass(frozen=True)
class Fitted:
    """What one background fit of a layer did.

    Attributes
    ----------
    updated : bool
        Whether adapter weights changed.
    ewc_updated : bool
        Whether the Fisher information or its anchor changed.
    trusted : bool
        Whether the feedback agreed with the bank; if not, nothing was learned.
    share : float
        Share of the fit that was taken, by what generalised.
    loss_before, loss_after : float or None
        Mean decision loss of the fresh lessons; None where there was nothing to fit.
    """

    updated: bool = False
    ewc_updated: bool = False
    trusted: bool = True
    share: float = 0.0
    loss_before: float | None = None
    loss_after: float | None = None


@dataclass(eq=False)
class _Layer:
    base: BaseLoRA
    ewc: OnlineEWC
    cycles: int = 0


class Adaptation:
    """All adapters of an engine.

    Parameters
    ----------
    dim : int
        Length of embeddings and hidden states.
    micro_rank : {1, 2}, default 2
    base_rank : int, default 8
    micro_rate : float, default 0.1
        Step bound of micro-LoRA: one outcome moves its weights by at most this, by less at first
        and once a background fit has set them. 0 switches the tier's learning off.
    base_rate : float, default 0.003
        Adam's step in the background fit. 0 switches the tier's learning off.
    ewc_lambda : float, default 1.0
        Strength of protection; 0 switches penalty and rehearsal off.
    seed : int, default 0

    Attributes
    ----------
    micro : MicroLoRA
        Of queries, on top of ``base(0)``.
    gate : TrustGate
        Whether recent feedback may teach.

    Notes
    -----
    :meth:`apply` may run at any time. :meth:`learn` and :meth:`consolidate` each exclude
    themselves, not each other: a consolidation changes adapters only at its end, at once.
    """

    def __init__(
        self,
        dim: int,
        micro_rank: int = 2,
        base_rank: int = 8,
        micro_rate: float = 0.1,
        base_rate: float = 0.003,
        ewc_lambda: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.dim, self.base_rank, self.seed = dim, base_rank, seed
        self.micro_rate, self.base_rate, self.ewc_lambda = micro_rate, base_rate, ewc_lambda
        self.micro = MicroLoRA(dim, micro_rank, seed)
        self.gate = TrustGate()
        self._outcomes = 0
        self._layers: dict[LayerKey, _Layer] = {}
        self._query = self._layer(0)

    @property
    def layers(self) -> list[LayerKey]:
        """Layers that have a base-LoRA; layer 0, the queries', is the first."""
        return list(self._layers)

    def base(self, layer: LayerKey = 0) -> BaseLoRA:
        """Return the base-LoRA of a layer; it is the identity until the layer has learned."""
        return self._layer(layer).base

    def ewc(self, layer: LayerKey = 0) -> OnlineEWC:
        """Return what protects the base-LoRA of a layer."""
        return self._layer(layer).ewc

    def apply(self, x: FloatArray, out: FloatArray | None = None) -> FloatArray:
        """Return micro(base(x)) for a query of shape (dim,) or queries of shape (n, dim)."""
        y = self._query.base.apply(x, out)
        return self.micro.apply(y, y)

    def learn(
        self,
        x: FloatArray,
        centroids: FloatArray,
        values: FloatArray,
        target: float,
        similarities: FloatArray | None = None,
        spread: float | None = None,
    ) -> float:
        """Learn one outcome of a query, instantly.

        Parameters
        ----------
        x : ndarray of float32, shape (dim,)
            The query as it came, of unit length or zero.
        centroids : ndarray of float32, shape (m, dim)
            Patterns of unit length.
        values : ndarray of float32, shape (m,)
            Quality in [0, 1] that each pattern expects of the route that was used.
        target : float
            Observed quality in [0, 1].
        similarities : ndarray of float32, shape (m,), optional
            Receives the similarities of `x` to the patterns.
        spread : float, optional
            Of the patterns, for who knows it already; see :mod:`sona.learning.cone`.

        Returns
        -------
        float
            What the bank expected before the step.

        Raises
        ------
        ShapeError, DTypeError, NonFiniteError, RangeError
            Nothing was changed.

        Notes
        -----
        Reads the patterns once, for the judgement of the gate and for the step.
        """
        rate, n = self.micro_rate, len(centroids)
        if self._outcomes < _CAUTIOUS:
            self._outcomes += 1
            rate *= math.sqrt(self._outcomes / _CAUTIOUS)
        if self._query.cycles:
            rate *= _SETTLED
        if similarities is None:
            similarities = np.empty(n, np.float32)
        if spread is None:
            spread = spread_of(centroids)
        return _core.outcome_step(
            self._query.base,
            self.micro,
            x,
            centroids,
            values,
            target,
            self.gate.state,
            similarities,
            MOST_IN_SIGHT if n > MOST_IN_SIGHT else n,
            MICRO_TEMPERATURE * spread,
            rate,
            _FADE,
            1.0,
            DAMPING,
        )

    def consolidate(
        self,
        fresh: Lessons,
        centroids: FloatArray,
        layer: LayerKey = 0,
        remembered: Lessons | None = None,
    ) -> Fitted:
        """Fit a layer to what came since the last call, protected by what came before.

        Parameters
        ----------
        fresh : Lessons
            In the order in which they came.
        centroids : ndarray of float32, shape (m, dim)
            Patterns of unit length: of queries for layer 0, of its activations for another one.
        layer : int or str, default 0
        remembered : Lessons, optional
            Earlier lessons at hand; up to 1,000 of them, drawn at random, rehearse.

        Returns
        -------
        Fitted
            With fewer than two patterns there is nothing to tell apart and nothing happens.

        Notes
        -----
        About a second for 5,000 lessons at 384 dimensions and 100 patterns, at most four.
        """
        if not len(fresh) or len(centroids) < 2 or not (self.base_rate or self.micro_rate):
            return Fitted()
        state = self._layer(layer)
        units = unit(fresh.inputs)[0]
        old = self._tiers(layer)
        before = float(losses(old.apply(fresh.inputs), fresh, centroids).mean())
        denied = layer == 0 and self.gate.contradicted
        if denied or not agrees(fresh, units, centroids):
            return Fitted(trusted=False, loss_before=before, loss_after=before)

        state.cycles += 1
        rng = np.random.default_rng([self.seed, state.cycles])
        lessons = everything = fresh
        if remembered is not None and len(remembered) and self.ewc_lambda > 0.0:
            drawn = rng.permutation(len(remembered))[:_REHEARSAL]
            lessons = remembered.take(drawn).joined(fresh)
            everything = remembered.joined(fresh)
        micro_rate = _MICRO_FIT_RATE if self.micro_rate > 0.0 else 0.0
        fit = TiersFit(old, centroids, micro_rate, self.base_rate, state.ewc)
        share = fit.generalising_share(lessons, rng)
        new = old.toward(fit.run(lessons, rng, everything), share)
        self._adopt(layer, new)
        protects = self.base_rate > 0.0 and self.ewc_lambda > 0.0
        if protects:
            self._protect(state.ewc, new, fresh, units, centroids)
        after = float(losses(new.apply(fresh.inputs), fresh, centroids).mean())
        return Fitted(True, protects, True, share, before, after)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the whole state as named arrays; :meth:`restore` takes it back."""
        state: dict[str, NDArray[Any]] = {
            "micro/A": self.micro.lora_A.copy(),
            "micro/B": np.ascontiguousarray(self.micro.lora_B),
            "micro/scaling": np.array([self.micro.scaling], np.float32),
            "gate": np.array(self.gate.moments),
            "outcomes": np.array([self._outcomes], np.int64),
        }
        for key, layer in self._layers.items():
            name = f"{type(key).__name__}:{key}/"
            state[name + "A"] = layer.base.lora_A.copy()
            state[name + "B"] = np.ascontiguousarray(layer.base.lora_B)
            state[name + "scaling"] = np.array([layer.base.scaling], np.float32)
            state[name + "cycles"] = np.array([layer.cycles], np.float32)
            state.update({name + "ewc/" + k: v for k, v in layer.ewc.arrays().items()})
        return state

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Continue from what :meth:`arrays` of an equal configuration returned.

        Raises
        ------
        FormatError
            An array is missing, unknown in form, or does not fit; nothing was changed.
        """
        other = Adaptation(
            self.dim,
            self.micro.rank,
            self.base_rank,
            self.micro_rate,
            self.base_rate,
            self.ewc_lambda,
            self.seed,
        )
        try:
            _load(other.micro, state, "micro/")
            other.gate.moments = state["gate"].tolist()
            other._outcomes = int(stored(state, "outcomes", np.int64, (1,), 0)[0])
            for head in _heads(state):
                kind, _, text = head.partition(":")
                layer = other._layer(int(text) if kind == "int" else text)
                prefix = head + "/"
                _load(layer.base, state, prefix)
                layer.cycles = int(stored(state, prefix + "cycles", np.float32, (1,), 0.0)[0])
                mark = prefix + "ewc/"
                layer.ewc.restore(wire.under(state, mark))
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise FormatError(f"adapter state does not fit: {error}") from error
        self.micro, self.gate, self._outcomes = other.micro, other.gate, other._outcomes
        self._layers, self._query = other._layers, other._query

    def _layer(self, layer: LayerKey) -> _Layer:
        state = self._layers.get(layer)
        if state is None:
            seed = zlib.crc32(f"{self.seed}/{layer!r}".encode())
            base = BaseLoRA(self.dim, self.base_rank, seed)
            fresh = _Layer(base, OnlineEWC(self.dim, _EWC_SCALE * self.ewc_lambda))
            # In one step: a reader must not displace what the background has just fitted.
            state = self._layers.setdefault(layer, fresh)
        return state

    def _tiers(self, layer: LayerKey) -> Tiers:
        base = factors(self._layer(layer).base)
        return Tiers(base, factors(self.micro)) if layer == 0 else Tiers(base)

    def _adopt(self, layer: LayerKey, new: Tiers) -> None:
        base = self._layer(layer).base
        base.lora_A, base.lora_B, base.scaling = *new.base, 1.0
        if new.micro is not None:
            self.micro.lora_A, self.micro.lora_B, self.micro.scaling = *new.micro, 1.0

    @staticmethod
    def _protect(
        ewc: OnlineEWC, new: Tiers, fresh: Lessons, units: FloatArray, centroids: FloatArray
    ) -> None:
        directions, norms = unit(new.apply(fresh.inputs))
        values = fresh.values[fresh.rows]
        gradients = query_gradient(directions, norms, centroids, values, None)
        whole = composed(*new)
        for part in ewc.split(units):
            ewc.learned(*whole, units[part], fresh.inputs[part], gradients[part])


def _heads(state: dict[str, NDArray[Any]]) -> list[str]:
    """What the names of each layer's arrays begin with."""
    own = {"A", "B", "scaling", "cycles"}
    parts = (name.rpartition("/") for name in state)
    heads = dict.fromkeys(head for head, _, last in parts if last in own)
    return [head for head in heads if head != "micro"]


def _load(adapter: MicroLoRA | BaseLoRA, state: dict[str, NDArray[Any]], prefix: str) -> None:
    dim, rank = adapter.dim, adapter.rank
    adapter.lora_A = stored(state, prefix + "A", np.float32, (rank, dim), *_FACTOR)
    adapter.lora_B = stored(state, prefix + "B", np.float32, (dim, rank), *_FACTOR)
    adapter.scaling = float(stored(state, prefix + "scaling", np.float32, (1,), -1e12, 1e12)[0])
