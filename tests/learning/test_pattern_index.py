"""PatternIndex against a plain dictionary of vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sona.errors import DTypeError, NonFiniteError, RangeError, ShapeError
from sona.learning import PatternIndex


def unit(x: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.where(lengths > 0, lengths, 1.0)


class IndexLikeADict(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(0)
        self.index = PatternIndex(dim=7)
        self.model: dict[int, np.ndarray] = {}

    def pick(self, share: float) -> np.ndarray:
        ids = np.array(list(self.model), dtype=np.int64)
        self.rng.shuffle(ids)
        return ids[: round(share * len(ids))]

    @rule(n=st.integers(0, 90))
    def add(self, n: int) -> None:
        vectors = self.rng.standard_normal((n, 7))
        ids = self.index.add(vectors)
        assert not set(ids) & set(self.model)
        self.model.update(zip(ids.tolist(), vectors, strict=True))

    @rule(share=st.floats(0.0, 1.0))
    def remove(self, share: float) -> None:
        ids = self.pick(share)
        self.index.remove(ids)
        for i in ids.tolist():
            del self.model[i]

    @rule(share=st.floats(0.0, 1.0))
    def replace(self, share: float) -> None:
        ids = self.pick(share)
        vectors = self.rng.standard_normal((len(ids), 7))
        self.index.replace(ids, vectors)
        self.model.update(zip(ids.tolist(), vectors, strict=True))

    @invariant()
    def answers_like_the_dictionary(self) -> None:
        assert len(self.index) == len(self.model)
        query = self.rng.standard_normal(7)
        ids, similarities = self.index.search(query, k=5)
        true = {i: float(unit(v) @ unit(query)) for i, v in self.model.items()}
        best = sorted(true.values(), reverse=True)[:5]
        np.testing.assert_allclose(similarities, best, atol=1e-6)
        np.testing.assert_allclose([true[i] for i in ids.tolist()], best, atol=1e-6)
        stored = dict(zip(self.index.ids.tolist(), self.index.vectors, strict=True))
        assert stored.keys() == self.model.keys()
        for i, vector in stored.items():
            np.testing.assert_allclose(vector, unit(self.model[i]), atol=1e-6)


TestIndexLikeADict = IndexLikeADict.TestCase
TestIndexLikeADict.settings = settings(max_examples=20, stateful_step_count=12, deadline=None)


def test_shapes_follow_the_query(rng: np.random.Generator) -> None:
    index = PatternIndex(dim=3)
    for query, shape in [(np.ones(3), (0,)), (np.ones((4, 3)), (4, 0))]:
        ids, similarities = index.search(query)
        assert ids.shape == similarities.shape == shape
    index.add(rng.standard_normal((3, 3)))
    for query, shape in [(np.ones(3), (3,)), (np.ones((4, 3)), (4, 3)), (np.ones((0, 3)), (0, 3))]:
        ids, similarities = index.search(query, k=10)
        assert ids.shape == similarities.shape == shape
        assert ids.dtype == np.int64
        assert similarities.dtype == np.float32
    assert index.search(np.ones((4, 3)), k=2)[0].shape == (4, 2)


def test_a_batch_answers_like_its_queries(rng: np.random.Generator) -> None:
    index = PatternIndex(dim=33)
    index.add(rng.standard_normal((700, 33)))
    queries = rng.standard_normal((20, 33))
    ids, similarities = index.search(queries, k=9, n_threads=2)
    for i, query in enumerate(queries):
        one = index.search(query, k=9)
        np.testing.assert_array_equal(ids[i], one[0])
        np.testing.assert_allclose(similarities[i], one[1], atol=1e-6)


def test_similarity_is_the_cosine_whatever_the_lengths(rng: np.random.Generator) -> None:
    index = PatternIndex(dim=5)
    vectors = rng.standard_normal((4, 5))
    index.add(vectors * 1000.0)
    ids, similarities = index.search(vectors[2] * 1e-6, k=1)
    assert ids.tolist() == [2]
    assert similarities[0] == pytest.approx(1.0)


def test_zero_vectors_are_similar_to_nothing() -> None:
    index = PatternIndex(dim=2)
    index.add([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    ids, similarities = index.search([5.0, 0.0], k=3)
    assert ids.tolist() == [1, 0, 2]
    assert similarities.tolist() == [1.0, 0.0, -1.0]
    assert index.search([0.0, 0.0], k=3)[1].tolist() == [0.0, 0.0, 0.0]


def test_equal_vectors_come_in_the_order_of_storing() -> None:
    index = PatternIndex(dim=2)
    index.add(np.tile([1.0, 2.0], (30, 1)))
    assert index.search([1.0, 2.0], k=30)[0].tolist() == list(range(30))


def test_the_view_cannot_be_written_through() -> None:
    index = PatternIndex(dim=2)
    index.add([1.0, 0.0])
    with pytest.raises(ValueError, match="read-only"):
        index.vectors[0, 0] = 5.0


def test_refusals_change_nothing(rng: np.random.Generator) -> None:
    index = PatternIndex(dim=3)
    ids = index.add(rng.standard_normal((5, 3)))
    before = index.vectors.copy()
    with pytest.raises(RangeError, match="`dim`"):
        PatternIndex(dim=0)
    with pytest.raises(ShapeError, match=r"`vectors` must have shape \(n, 3\); got \(2, 4\)"):
        index.add(np.ones((2, 4)))
    with pytest.raises(NonFiniteError, match="`vectors`"):
        index.add([1.0, np.nan, 0.0])
    with pytest.raises(RangeError, match="`ids` must be stored; got 9"):
        index.remove([0, 9])
    with pytest.raises(RangeError, match="got -1"):
        index.remove(-1)
    with pytest.raises(RangeError, match="once"):
        index.remove([1, 1])
    with pytest.raises(DTypeError, match="`ids`"):
        index.remove([0.5])
    with pytest.raises(ShapeError, match="`vectors` must have 2 rows; got 1"):
        index.replace(ids[:2], np.ones(3))
    for ragged in ([[1, 2, 3], [4, 5]], [[1, 2, 3], 4, 5]):
        with pytest.raises(ShapeError, match="`vectors`"):
            index.add(ragged)
        with pytest.raises(ShapeError, match="`query`"):
            index.search(ragged)
        with pytest.raises(ShapeError, match="`ids`"):
            index.remove(ragged)
    for wrong in (True, 1.5, "3", None):
        with pytest.raises(DTypeError, match="`k`"):
            index.search(np.ones(3), k=wrong)  # type: ignore[arg-type]
        with pytest.raises(DTypeError, match="`dim`"):
            PatternIndex(wrong)  # type: ignore[arg-type]
    with pytest.raises(RangeError, match="`k`"):
        index.search(np.ones(3), k=0)
    with pytest.raises(RangeError, match="`n_threads`"):
        index.search(np.ones(3), n_threads=0)
    with pytest.raises(ShapeError, match=r"`query` must have shape \(3,\); got \(2,\)"):
        index.search(np.ones(2))
    np.testing.assert_array_equal(index.vectors, before)
    index.remove(ids[0])
    with pytest.raises(RangeError, match="got 0"):
        index.remove(ids[0])
