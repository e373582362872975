"""Preference pairs and labels: what is in them, and that the real loaders take them."""

import json

import datasets
import pytest
import trl.data_utils as trl
from hypothesis import given
from hypothesis import strategies as st

from sona.errors import DTypeError, RangeError
from sona.federated import EphemeralAgent
from sona.integrations.trl import write_labels, write_preferences
from sona.types import Trajectory


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def load(path, tmp_path):
    """As TRL's documentation loads a file; the cache stays in the test's folder."""
    return datasets.load_dataset(
        "json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )


@pytest.fixture
def session():
    """An agent that put two prompts to two models; the mapping holds what was said."""
    agent = EphemeralAgent.default_federated("agent-1", hidden_dim=2)
    texts = {}
    for number, (prompt, route, answer, quality) in enumerate(
        [
            ("2 + 2?", "large", "4", 1.0),
            ("2 + 2?", "small", "5", 0.0),
            ("2 + 2?", "small", "four", 0.75),
            ("capital of France?", "small", "Paris", 0.9),
        ]
    ):
        texts[f"request:{number}"] = (prompt, answer)
        agent.process_trajectory([1, 0], [1, 0], quality, route, [f"request:{number}"])
    agent.process_trajectory([0, 1], [0, 1], 0.5, "small", ["request:lost"])
    return agent.export_state().trajectories, texts


def test_preferences_compare_answers_to_the_same_prompt(session, tmp_path):
    outcomes, texts = session
    path = tmp_path / "dpo.jsonl"
    assert write_preferences(path, outcomes, texts, margin=0.3) == (2, 1, 1)
    pairs = {(row["prompt"], row["chosen"], row["rejected"]) for row in lines(path)}
    assert pairs == {("2 + 2?", "4", "5"), ("2 + 2?", "four", "5")}
    assert write_preferences(path, outcomes, texts, margin=0.25).rows == 3
    data = load(path, tmp_path)
    assert set(data.column_names) == {"prompt", "chosen", "rejected"}
    assert len(data) == 3


def test_labels_use_every_outcome_whose_text_is_known(session, tmp_path):
    outcomes, texts = session
    path = tmp_path / "kto.jsonl"
    assert write_labels(path, outcomes, texts, threshold=0.8) == (4, 1, 0)
    data = load(path, tmp_path)
    assert data.features["label"].dtype == "bool"
    assert dict(zip(data["completion"], data["label"], strict=True)) == {
        "4": True,
        "5": False,
        "four": False,
        "Paris": True,
    }


def test_trl_takes_both_as_they_are(session, tmp_path):
    outcomes, texts = session
    spoken = {
        tag: ([{"role": "user", "content": p}], [{"role": "assistant", "content": c}])
        for tag, (p, c) in texts.items()
    }
    for known in (texts, spoken):
        write_preferences(tmp_path / "dpo.jsonl", outcomes, known)
        write_labels(tmp_path / "kto.jsonl", outcomes, known)
        for name in ("dpo", "kto"):
            row = load(tmp_path / f"{name}.jsonl", tmp_path / name)[0]
            assert trl.is_conversational(row) == (known is spoken)
        pairs = trl.unpair_preference_dataset(load(tmp_path / "dpo.jsonl", tmp_path / "dpo"))
        assert set(pairs.column_names) == {"prompt", "completion", "label"}


def test_texts_may_come_from_a_function(tmp_path):
    outcomes = [Trajectory([1.0], quality, route) for quality, route in ((0.9, "a"), (0.1, "b"))]
    path = tmp_path / "dpo.jsonl"
    write_preferences(path, outcomes, lambda outcome: ("p", f"by {outcome.route}"))
    assert lines(path) == [{"prompt": "p", "chosen": "by a", "rejected": "by b"}]


def test_what_cannot_be_a_text_or_a_margin_is_refused_and_no_file_is_left(tmp_path):
    outcomes = [Trajectory([1.0], 0.9, "a")]
    for texts in (lambda _: ("p", 5), lambda _: ([], "c"), lambda _: ([{"role": 1}], "c")):
        with pytest.raises(DTypeError, match=r"completion|prompt"):
            write_preferences(tmp_path / "x.jsonl", outcomes, texts)
    with pytest.raises(RangeError, match="margin"):
        write_preferences(tmp_path / "x.jsonl", outcomes, {}, margin=0.0)
    assert not (tmp_path / "x.jsonl").exists()


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 20)), max_size=12),
    st.integers(1, 20),
)
def test_every_pair_that_differs_enough_is_there_and_no_other(tmp_path_factory, answers, margin):
    path = tmp_path_factory.mktemp("trl") / "dpo.jsonl"
    texts = {str(i): (f"p{p}", f"c{c}") for i, (p, c, _) in enumerate(answers)}
    outcomes = [Trajectory([1.0], q / 20, None, (str(i),)) for i, (_, _, q) in enumerate(answers)]
    written = write_preferences(path, outcomes, texts, margin=margin / 20)
    wanted = sorted(
        (f"p{p}", f"c{good}", f"c{bad}")
        for p, good, q in answers
        for p2, bad, q2 in answers
        if p == p2 and good != bad and q - q2 >= margin
    )
    found = sorted((row["prompt"], row["chosen"], row["rejected"]) for row in lines(path))
    assert found == wanted
    assert written.rows == len(wanted)
