"""semantic-router's own router machinery around sona."""

import asyncio
import logging

import numpy as np
import pytest
from semantic_router import Route
from semantic_router.routers.base import BaseRouter

from sona import SonaConfig, SonaEngine
from sona.errors import ConfigError, RangeError
from sona.integrations.semantic_router import SonaRouter

ROUTES = ["billing", "support", "sales"]
# The inner router takes every query for billing.
SCORES = {"billing": 0.8, "support": 0.7, "sales": 0.1}


class Fixed(BaseRouter):
    async def _scores(self, query):
        return dict(SCORES)


@pytest.fixture
def inner():
    return Fixed([Route(name=name, utterances=[name]) for name in ROUTES])


@pytest.fixture
def engine():
    return SonaEngine(SonaConfig(hidden_dim=4))


def embed(query):
    return np.eye(4)[["pay", "broken"].index(query.split()[0])]


def test_it_learns_which_candidate_is_right(inner, engine):
    router = SonaRouter(inner, engine, embed)
    right = {"pay": "billing", "broken": "support"}
    picks = []
    for turn in range(60):
        query = ["pay", "broken"][turn % 2]
        choice = router(query) if turn % 4 else asyncio.run(router.acall(query))
        picks.append(choice.name == right[query])
        router.feedback(query, choice.name, 0.9 if picks[-1] else 0.1)
        router.flush()
    assert all(picks[-20:])
    assert router("broken").confidence == 0.8
    assert {choice.name for choice in router("broken", limit=None)} == set(ROUTES)
    assert router.failures == 0


def test_thresholds_stay(inner, engine):
    router = SonaRouter(inner, engine, embed)
    assert router("pay", threshold=0.9).name is None


@pytest.mark.parametrize(
    "wrong", [lambda query: 1 / 0, lambda query: [1.0]], ids=["raise", "short"]
)
def test_failures_leave_the_inner_router_as_it_was(inner, engine, caplog, wrong):
    router = SonaRouter(inner, engine, wrong)
    with caplog.at_level(logging.ERROR, "sona.integrations"):
        assert [router("pay").name for _ in range(3)] == ["billing"] * 3
    assert router.failures == 3
    assert len(caplog.records) == 1


def test_arguments_are_checked(inner, engine):
    with pytest.raises(ConfigError, match="`embed`"):
        SonaRouter(inner, engine, None)
    with pytest.raises(RangeError, match="`candidates`"):
        SonaRouter(inner, engine, embed, candidates=1)
    router = SonaRouter(inner, engine, embed)
    with pytest.raises(RangeError, match="`quality`"):
        router.feedback("pay", "billing", 2.0)
