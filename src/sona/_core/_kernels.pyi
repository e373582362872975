# Signatures are those of sona._core.reference, where each kernel is documented.
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from sona._core.arrays import FloatArray
from sona._core.codes import RowCodes as RowCodes

def capabilities() -> list[str]: ...
def capability() -> str: ...
def activate(name: str) -> None: ...
def as_vector(x: Any, dim: int | None, name: str) -> FloatArray: ...
def as_unit(x: Any, dim: int, name: str, out: FloatArray | None = None) -> FloatArray: ...
def as_matrix(x: Any, dim: int | None, name: str) -> FloatArray: ...

class LowRankAdapter:
    def __init__(self, dim: int, rank: int, scaling: float = 1.0) -> None: ...
    @property
    def dim(self) -> int: ...
    @property
    def rank(self) -> int: ...
    @property
    def weights(self) -> FloatArray: ...
    @property
    def scaling(self) -> float: ...
    @scaling.setter
    def scaling(self, value: float) -> None: ...
    @property
    def lora_A(self) -> FloatArray: ...
    @lora_A.setter
    def lora_A(self, value: npt.ArrayLike) -> None: ...
    @property
    def lora_B(self) -> FloatArray: ...
    @lora_B.setter
    def lora_B(self, value: npt.ArrayLike) -> None: ...
    def apply(self, x: npt.ArrayLike, out: FloatArray | None = None) -> FloatArray: ...
    def apply_bits(
        self,
        x: npt.NDArray[np.uint16],
        format: str,
        out: npt.NDArray[np.uint16] | None = None,
    ) -> npt.NDArray[np.uint16]: ...

class CellModel:
    def __init__(
        self,
        rows: FloatArray,
        starts: npt.NDArray[np.int64],
        table: FloatArray,
        variance: FloatArray,
        level: npt.NDArray[np.float64],
        doubted: int,
        codes: RowCodes | None = None,
    ) -> None: ...
    def means(self, x: FloatArray) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]: ...

class Outlook:
    def __init__(
        self,
        model: CellModel | None,
        rows: FloatArray,
        codes: RowCodes,
        n: int,
        whole: npt.NDArray[np.int64],
        real: npt.NDArray[np.float64],
        levels: npt.NDArray[np.float64],
        overall: npt.NDArray[np.float64],
        learned: int,
        neighbours: int,
        width: float,
        nth: int,
        fresh: float,
        residual_prior: float,
        trust: float,
        low: float,
        memory_prior: float,
        edge: float,
    ) -> None: ...
    def expect(
        self, x: FloatArray, ask: Callable[[npt.NDArray[np.int64]], object]
    ) -> tuple[list[float], list[float]] | None: ...

def adapt_tensor(x: Any, adapters: tuple[LowRankAdapter, ...]) -> Any | None: ...
def decision_step(
    adapter: LowRankAdapter,
    x: FloatArray,
    centroids: FloatArray,
    values: FloatArray,
    target: float,
    indices: npt.NDArray[np.int64],
    similarities: FloatArray,
    temperature: float,
    rate: float,
    decay: float,
    max_norm: float,
    damping: float,
) -> float: ...
def outcome_step(
    lower: LowRankAdapter,
    upper: LowRankAdapter,
    x: FloatArray,
    centroids: FloatArray,
    values: FloatArray,
    target: float,
    gate: npt.NDArray[np.float64],
    similarities: FloatArray,
    k: int,
    temperature: float,
    rate: float,
    decay: float,
    max_norm: float,
    damping: float,
) -> float: ...
def gate_trust(gate: npt.NDArray[np.float64]) -> float: ...
def gate_observe(gate: npt.NDArray[np.float64], expected: float, target: float) -> None: ...
def similarities_to(rows: FloatArray, x: FloatArray, out: FloatArray) -> None: ...
def expected_values(
    outcomes: npt.NDArray[np.float64],
    out: FloatArray,
    blind: float,
    floor: float,
    strength: float,
) -> None: ...
def place_outcome(
    similarities: FloatArray,
    unit: FloatArray,
    quality: float,
    accepted: bool,
    outcomes: npt.NDArray[np.float64],
    sums: npt.NDArray[np.float64],
    sizes: npt.NDArray[np.float64],
    centroids: FloatArray,
    same: float,
    room: bool,
    by_route: bool,
) -> int: ...
def count_outcome(
    cell: int,
    unit: FloatArray,
    quality: float,
    accepted: bool,
    outcomes: npt.NDArray[np.float64],
    sums: npt.NDArray[np.float64],
    sizes: npt.NDArray[np.float64],
    centroids: FloatArray,
) -> None: ...
def settle(sums: npt.NDArray[np.float64], centroids: FloatArray) -> None: ...
def store_row(rows: FloatArray, row: int, x: FloatArray) -> None: ...
def follow(
    levels: npt.NDArray[np.float64],
    overall: npt.NDArray[np.float64],
    runs: npt.NDArray[np.float64],
    route: int,
    quality: float,
    weight: float,
    order: int,
    slack: float,
    threshold: float,
    limit: float,
) -> int: ...
def put_outcome(
    rows: FloatArray,
    codes: RowCodes,
    whole: npt.NDArray[np.int64],
    real: npt.NDArray[np.float64],
    row: int,
    unit: FloatArray,
    route: int,
    order: int,
    quality: float,
    weight: float,
    length: float,
) -> None: ...
def precedents(
    rows: npt.NDArray[np.int64],
    before: npt.NDArray[np.int64],
    near: npt.NDArray[np.int64],
    similarities: FloatArray,
    whole: npt.NDArray[np.int64],
    real: npt.NDArray[np.float64],
    nth: int,
    width: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]: ...
def judge(
    rows: npt.NDArray[np.int64],
    near: npt.NDArray[np.int64],
    similarities: FloatArray,
    whole: npt.NDArray[np.int64],
    real: npt.NDArray[np.float64],
    n: int,
    levels: npt.NDArray[np.float64],
    overall: npt.NDArray[np.float64],
    contest: npt.NDArray[np.float64],
    choice: npt.NDArray[np.float64],
    nth: int,
    width: float,
    memory_prior: float,
    choice_prior: float,
    fade: float,
    said_fade: float,
) -> None: ...
def same_vector(x: FloatArray, y: FloatArray) -> bool: ...
def unit_rows(x: FloatArray) -> FloatArray: ...
def assign(
    points: FloatArray,
    centroids: FloatArray,
    labels: npt.NDArray[np.int32],
    similarities: FloatArray | None,
    n_threads: int = 1,
    codes: RowCodes | None = None,
    moved: npt.NDArray[np.bool_] | None = None,
) -> None: ...
def screens_assignments(n_clusters: int) -> bool: ...
def squared_distances(points: FloatArray, seeds: FloatArray) -> FloatArray: ...
def accumulate(
    points: FloatArray,
    labels: npt.NDArray[np.int32],
    weights: npt.NDArray[np.float64] | None,
    sums: npt.NDArray[np.float64],
    counts: npt.NDArray[np.float64],
    before: npt.NDArray[np.int32] | None = None,
) -> None: ...
def encode_rows(rows: FloatArray, codes: RowCodes, start: int) -> None: ...
def top_k(
    rows: FloatArray,
    n: int,
    queries: FloatArray,
    k: int,
    n_threads: int = 1,
    codes: RowCodes | None = None,
) -> tuple[npt.NDArray[np.int64], FloatArray]: ...
