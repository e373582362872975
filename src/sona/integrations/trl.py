"""Outcomes as training data for TRL: preference pairs (DPO) and labelled completions (KTO).

sona remembers embeddings, not texts, so the caller says what was asked and answered. A preference
compares two completions of the *same* prompt; where a prompt was answered only once there is
nothing to compare, and the unpaired labels of KTO use the outcome all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from os import PathLike
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec

from sona.checks import check_number, check_quality
from sona.errors import DTypeError, RangeError

__all__ = ["Outcome", "Text", "Texts", "Written", "write_labels", "write_preferences"]

#: A text, or a conversation as a list of messages with ``role`` and ``content``.
Text: TypeAlias = str | list[dict[str, str]]


class Outcome(Protocol):
    """A finished request: a Trajectory, or a row of an export."""

    @property
    def quality(self) -> float:
        """Outcome in [0, 1]."""

    @property
    def context(self) -> Any:
        """Free tags."""


#: Prompt and completion of an outcome, or None where they are not known: as a function of the
#: outcome, or as a mapping from one of its context tags.
Texts: TypeAlias = Callable[[Any], tuple[Text, Text] | None] | Mapping[str, tuple[Text, Text]]


class Written(NamedTuple):
    """What became of the outcomes.

    Attributes
    ----------
    rows : int
        Rows in the file.
    without_text : int
        Outcomes whose texts are not known.
    unpaired : int
        Outcomes that stand in no pair; 0 where pairs are not asked for.
    """

    rows: int
    without_text: int
    unpaired: int


class _Answer(NamedTuple):
    prompt: Text
    completion: Text
    quality: float


def write_preferences(
    path: str | PathLike[str],
    outcomes: Iterable[Outcome],
    texts: Texts,
    margin: float = 0.1,
) -> Written:
    """Write preference pairs as JSON lines: ``prompt``, ``chosen``, ``rejected``.

    Parameters
    ----------
    path : path_like
        File to write.
    outcomes : iterable of Outcome
        Trajectories, or the rows of an export.
    texts : callable or mapping
        Prompt and completion of each outcome.
    margin : float, default 0.1
        In (0, 1]: how much better the chosen completion must have been.

    Returns
    -------
    Written

    Raises
    ------
    RangeError
        If the margin is 0 or below: equals have no better one.
    DTypeError
        If a text is neither a string nor a list of messages.

    Examples
    --------
    >>> from pathlib import Path
    >>> from sona.federated import TrajectoryExport
    >>> from sona.integrations.trl import write_preferences
    >>> outcomes = [
    ...     TrajectoryExport([1, 0], 0.9, "large", ["request:1/a"]),
    ...     TrajectoryExport([1, 0], 0.2, "small", ["request:1/b"]),
    ... ]
    >>> texts = {"request:1/a": ("2 + 2?", "4"), "request:1/b": ("2 + 2?", "5")}
    >>> write_preferences("dpo.jsonl", outcomes, texts)
    Written(rows=1, without_text=0, unpaired=0)
    >>> Path("dpo.jsonl").read_text()
    '{"prompt":"2 + 2?","chosen":"4","rejected":"5"}\\n'
    """
    answers, without_text = _answers(outcomes, texts)
    pairs = list(_pairs(answers, margin))
    _write(path, (_preference(*pair) for pair in pairs))
    paired = {id(answer) for pair in pairs for answer in pair}
    return Written(len(pairs), without_text, len(answers) - len(paired))


def write_labels(
    path: str | PathLike[str],
    outcomes: Iterable[Outcome],
    texts: Texts,
    threshold: float = 0.5,
) -> Written:
    """Write labelled completions as JSON lines: ``prompt``, ``completion``, ``label``.

    Parameters
    ----------
    path : path_like
    outcomes : iterable of Outcome
    texts : callable or mapping
        As for :func:`write_preferences`.
    threshold : float, default 0.5
        Quality from which a completion is labelled True.

    Returns
    -------
    Written
    """
    threshold = check_quality("threshold", threshold)
    answers, without_text = _answers(outcomes, texts)
    _write(path, (_label(answer, threshold) for answer in answers))
    return Written(len(answers), without_text, 0)


def _answers(outcomes: Iterable[Outcome], texts: Texts) -> tuple[list[_Answer], int]:
    answers: list[_Answer] = []
    without_text = 0
    for outcome in outcomes:
        known = texts(outcome) if callable(texts) else _look_up(outcome, texts)
        if known is None:
            without_text += 1
            continue
        prompt, completion = known
        quality = check_quality("quality", outcome.quality)
        answers.append(
            _Answer(_check_text("prompt", prompt), _check_text("completion", completion), quality)
        )
    return answers, without_text


def _look_up(outcome: Outcome, texts: Mapping[str, tuple[Text, Text]]) -> tuple[Text, Text] | None:
    return next((texts[tag] for tag in outcome.context if tag in texts), None)


def _check_text(name: str, text: object) -> Text:
    if isinstance(text, str):
        return text
    if isinstance(text, list) and text:
        try:
            return msgspec.convert(text, list[dict[str, str]])
        except msgspec.ValidationError:
            pass
    raise DTypeError(f"`{name}` must be a string or a list of messages; got {text!r}")


def _pairs(answers: list[_Answer], margin: float) -> Iterator[tuple[_Answer, _Answer]]:
    """Every better completion against every worse one of the same prompt."""
    margin = check_number("margin", margin, 0.0, 1.0)
    if margin == 0.0:
        raise RangeError("`margin` must be above 0; got 0.0")
    by_prompt: dict[bytes, list[_Answer]] = {}
    for answer in answers:
        by_prompt.setdefault(msgspec.json.encode(answer.prompt), []).append(answer)
    for held in by_prompt.values():
        held.sort(key=lambda answer: -answer.quality)
        for number, chosen in enumerate(held):
            for rejected in held[number + 1 :]:
                # A difference of exactly the margin counts, whatever binary fractions make of it.
                better = chosen.quality - rejected.quality >= margin - 1e-9
                if better and chosen.completion != rejected.completion:
                    yield chosen, rejected


def _preference(chosen: _Answer, rejected: _Answer) -> dict[str, Any]:
    return {
        "prompt": chosen.prompt,
        "chosen": chosen.completion,
        "rejected": rejected.completion,
    }


def _label(answer: _Answer, threshold: float) -> dict[str, Any]:
    return {
        "prompt": answer.prompt,
        "completion": answer.completion,
        "label": answer.quality >= threshold,
    }


def _write(path: str | PathLike[str], rows: Iterable[dict[str, Any]]) -> None:
    with open(path, "wb") as file:
        for row in rows:
            file.write(msgspec.json.encode(row) + b"\n")
