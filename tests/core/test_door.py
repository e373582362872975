"""The choice of a backend, and that both sides of it have the same face."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import numpy as np
import pytest

from sona import _core
from sona._core import reference
from sona.errors import RangeError

native = pytest.mark.skipif(_core.backend != "native", reason="no native kernels here")


def ask(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SONA_")}
    return subprocess.run(
        [sys.executable, "-c", f"import sona._core as c; {code}"],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_numpy_can_be_chosen() -> None:
    answer = ask("print(c.backend, c.capabilities(), c.capability())", SONA_BACKEND="numpy")
    assert answer.stdout.split() == ["numpy", "()", "None"]


@pytest.mark.parametrize("name", ["SONA_BACKEND", "SONA_CAPABILITY"])
def test_unknown_choices_are_refused(name: str) -> None:
    answer = ask("pass", **{name: "fast"})
    assert answer.returncode != 0
    assert f"`{name}` must be" in answer.stderr
    assert "got 'fast'" in answer.stderr


@native
def test_the_best_is_chosen_and_may_be_capped() -> None:
    present = _core.capabilities()
    assert present[0] == "baseline"
    assert ask("print(c.capability())").stdout.strip() == present[-1]
    for cap in present:
        assert ask("print(c.capability())", SONA_CAPABILITY=cap).stdout.strip() == cap
    assert ask("print(c.capability())", SONA_CAPABILITY="avx512vnni").stdout.strip() == present[-1]


@native
def test_forcing_ends_with_the_block() -> None:
    before = _core.capability()
    with _core.forced("baseline"):
        assert _core.capability() == "baseline"
    assert _core.capability() == before
    with pytest.raises(RangeError, match="`name` must be one of"), _core.forced("mmx"):
        pass


@native
def test_both_backends_have_the_same_signatures() -> None:
    from sona._core import _kernels

    for name in reference.__all__:
        ours, theirs = getattr(reference, name), getattr(_kernels, name)
        if ours is theirs:
            continue
        if inspect.isclass(ours):
            members = {m for m in vars(ours) if not m.startswith("_")}
            assert members == {m for m in vars(theirs) if not m.startswith("_")}
            pairs = [(getattr(ours, m), getattr(theirs, m)) for m in members]
            pairs = [pair for pair in pairs if callable(pair[0])]
            # The constructor of an extension type hides its signature; calling it does not.
            if name == "LowRankAdapter":
                assert theirs(dim=3, rank=2).scaling == ours(dim=3, rank=2).scaling
        else:
            pairs = [(ours, theirs)]
        for mine, other in pairs:
            want = [(p.name, p.default) for p in inspect.signature(mine).parameters.values()]
            have = [(p.name, p.default) for p in inspect.signature(other).parameters.values()]
            assert have == want, name


@native
def test_kernels_run_in_many_threads_at_once(rng: np.random.Generator) -> None:
    from concurrent.futures import ThreadPoolExecutor

    points = rng.standard_normal((2000, 64)).astype(np.float32)
    centroids = rng.standard_normal((50, 64)).astype(np.float32)
    unit = _core.unit_rows(points)

    def once(_: int) -> tuple[bytes, bytes]:
        labels, similarities = np.empty(2000, np.int32), np.empty(2000, np.float32)
        _core.assign(points, centroids, labels, similarities, 2)
        indices, _ = _core.top_k(unit, 2000, unit[:20].copy(), 5, 2)
        return labels.tobytes(), indices.tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(once, range(40)))) == 1
