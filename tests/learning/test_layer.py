"""A layer's memory and bank: nothing is counted twice or lost, whatever memory lets go of."""

import numpy as np
import pytest

from sona.learning.layer import LayerMemory

DIM = 12


def stream(rng, n, routes=3):
    for i in range(n):
        x = np.eye(DIM)[i % 7] + 0.4 * rng.standard_normal(DIM)
        quality = float(rng.random())
        yield (x / np.linalg.norm(x)).astype(np.float32), f"r{i % routes}", quality, quality >= 0.3


def check_sums(memory, seen):
    """The bank's sums are those of everything that was ever seen."""
    cells = memory.bank.cells
    accepted = [x for x, _, _, moved in seen if moved]
    assert cells.sizes.sum() == len(accepted)
    np.testing.assert_allclose(
        cells.sums.sum(axis=0), np.sum(accepted, axis=0, dtype=float), atol=1e-9
    )
    for route, stats in memory.bank.route_stats().items():
        mine = [quality for _, name, quality, _ in seen if name == route]
        assert stats.count == len(mine)
        assert stats.mean == pytest.approx(np.mean(mine))


@pytest.mark.parametrize("capacity", [1, 40, 1_000])
@pytest.mark.parametrize("selectivity", [0.0, 1.0])
def test_learning_keeps_all_sums(rng, capacity, selectivity):
    memory, seen = LayerMemory(DIM, 10, capacity, seed=0), []
    for part in range(4):
        for outcome in stream(rng, 60, routes=3 + part):
            memory.observe(*outcome)
            seen.append(outcome)
        check_sums(memory, seen)
        memory.learn(selectivity)
        check_sums(memory, seen)
    assert (len(memory), memory.dropped) == (min(capacity, 240), max(240 - capacity, 0))


def test_failures_before_the_first_pattern_are_counted(rng):
    memory, x = LayerMemory(DIM, 4, 3, seed=0), np.eye(DIM, dtype=np.float32)[0]
    seen = [(x, "a", 0.1, False)] * 5
    for outcome in seen:
        memory.observe(*outcome)
    assert len(memory.bank) == 0
    memory.learn(1.0)
    check_sums(memory, seen)
    seen = [*seen, (x, "a", 0.9, True)]
    memory.observe(*seen[-1])
    check_sums(memory, seen)
    assert memory.bank.patterns()[0].routes["a"].count == 6
    memory.learn(1.0)
    check_sums(memory, seen)


def test_a_routes_first_success_gets_a_pattern_in_a_full_bank(rng):
    memory, seen = LayerMemory(DIM, 5, 50, seed=0), []
    for outcome in stream(rng, 80):
        memory.observe(*outcome)
        seen.append(outcome)
    memory.learn(1.0)
    while len(memory.bank) < 5:
        memory.observe(*next(stream(rng, 1)))
    before = {pattern.id for pattern in memory.bank.patterns()}
    new = (np.full(DIM, 1.0 / np.sqrt(DIM), np.float32), "new", 1.0, True)
    memory.observe(*new)
    fresh = [pattern for pattern in memory.bank.patterns() if pattern.id not in before]
    assert len(memory.bank) <= 5
    assert [list(pattern.routes) for pattern in fresh] == [["new"]]
    memory.learn(1.0)
    total = sum(r.count for p in memory.bank.patterns() for r in p.routes.values())
    assert total == memory._seen


def test_the_same_bits_after_saving(rng):
    memory = LayerMemory(DIM, 8, 30, seed=0)
    for outcome in stream(rng, 70):
        memory.observe(*outcome)
    again = LayerMemory(DIM, 8, 30, seed=0)
    again.restore(memory.arrays(), memory.facts())
    for one, rest in ((memory, np.random.default_rng(9)), (again, np.random.default_rng(9))):
        for outcome in stream(rest, 25):
            one.observe(*outcome)
        one.learn(0.7)
    assert memory.bank.centroids.tobytes() == again.bank.centroids.tobytes()
    for name, array in memory.arrays().items():
        assert array.tobytes() == again.arrays()[name].tobytes(), name


def test_what_a_pattern_tells_of_its_routes_is_up_to_date_and_the_readers_own(rng):
    memory = LayerMemory(8, 4, 100, 0)
    unit = np.eye(8, dtype=np.float32)[0]
    for number in range(1, 6):
        memory.observe(unit, "a", 0.5, True)
        (pattern,) = memory.bank.search(unit, 1)
        assert pattern.routes["a"].count == number
        pattern.routes.clear()
    memory.learn(1.0)
    assert memory.bank.patterns()[0].routes["a"].count == 5
