"""Outcome tables for the routing benchmarks, and what is measured on them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

ZERO_EVAL = [
    "gpt-4o-2024-08-06",
    "gpt-4o-mini-2024-07-18",
    "gpt-3.5-turbo-0125",
    "claude-3-5-sonnet-20241022",
    "claude-3-haiku-20240307",
    "gemini-1.5-pro",
    "gemini-1.5-flash",
    "deepseek-v2.5-0908",
    "Meta-Llama-3.1-70B-Instruct",
    "Meta-Llama-3.1-8B-Instruct",
    "Qwen2-72B-Instruct",
]
FILES = {
    "mmlu": "route_mmlu2.npz",
    "gsm8k": "route_gsm8k2.npz",
    "zeroeval": "route_zeroeval25.npz",
    "banking": "intent_banking77.npz",
}


class Table(NamedTuple):
    """Queries (n, dim), quality and cost of every model (n, models), group (n,)."""

    x: np.ndarray
    quality: np.ndarray
    cost: np.ndarray
    group: np.ndarray


class Log(NamedTuple):
    """What training sees: one row per recorded outcome."""

    x: np.ndarray
    route: np.ndarray
    quality: np.ndarray


def folder(given: str | None) -> Path:
    path = given or os.environ.get("SONA_DATA")
    if not path:
        raise SystemExit("name the data folder: --data FOLDER or SONA_DATA=FOLDER")
    return Path(path)


def unit(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def load(data: Path, name: str) -> Table:
    z = np.load(data / FILES[name])
    quality = z["quality"].astype(np.float64)
    price = z["price_usd_per_mtok"].astype(np.float64)
    # MMLU has no answer lengths: every answer is a letter and a few words.
    out = z["out_chars"] if "out_chars" in z.files else np.full(quality.shape, 20)
    cost = (z["in_chars"][:, None] * price[:, 0] + out * price[:, 1]) / 4e6
    if name == "zeroeval":
        models = z["models"].tolist()
        columns = [models.index(model) for model in ZERO_EVAL]
        quality, cost = quality[:, columns], cost[:, columns]
    return Table(unit(z["emb"]), quality, cost, z["group"])


def split(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(seed).permutation(n)
    return order[: int(0.7 * n)], order[int(0.7 * n) :]


def record(table: Table, rows: np.ndarray, mode: str, seed: int, shuffle: bool = False) -> Log:
    """The log of the training rows: `full` has every model's outcome, `log` one at random."""
    rng = np.random.default_rng([seed, 1])
    quality = table.quality[rows]
    if shuffle:
        quality = quality[rng.permutation(len(rows))]
    models = quality.shape[1]
    if mode == "full":
        return Log(
            np.repeat(table.x[rows], models, axis=0),
            np.tile(np.arange(models), len(rows)),
            quality.ravel(),
        )
    route = rng.integers(0, models, len(rows))
    return Log(table.x[rows], route, quality[np.arange(len(rows)), route])


def apgr(expected: np.ndarray, quality: np.ndarray) -> float:
    """Mean over the share sent to the strong model (column 1) of the share of gap recovered."""
    order = np.argsort(expected[:, 0] - expected[:, 1], kind="stable")
    gain = (quality[:, 1] - quality[:, 0])[order]
    return float(np.concatenate([[0.0], np.cumsum(gain)]).mean() / gain.sum())


def gain_and_cost(expected: np.ndarray, test: Table, train: Table) -> tuple[float, float]:
    """Gain in quality over the best single model of training when cost is free; share of its cost
    at its quality less one point, on the concave hull over the cost knob."""
    best = int(train.quality.mean(axis=0).argmax())
    rows = np.arange(len(expected))
    price = train.cost.mean(axis=0)
    price = price / price.max()
    points = []
    for knob in np.concatenate([[0.0], np.logspace(-3, 3, 200)]):
        chosen = (expected - knob * price).argmax(axis=1)
        points.append((test.cost[rows, chosen].mean(), test.quality[rows, chosen].mean()))
    free = points[0][1] - test.quality[:, best].mean()
    target = test.quality[:, best].mean() - 0.01
    reach = [c for c, q in points if q >= target]
    for c1, q1 in points:
        for c0, q0 in points:
            if q0 < target <= q1 and c0 < c1:
                reach.append(c0 + (target - q0) / (q1 - q0) * (c1 - c0))
    return float(free), min(reach, default=np.nan) / test.cost[:, best].mean()


def pick(table: Table, rows: np.ndarray) -> Table:
    return Table(*(column[rows] for column in table))
