"""LiteLLM's real Router, with its mock responses."""

import asyncio
import logging
import textwrap
import time

import litellm
import numpy as np
import pytest

from sona import SonaConfig, SonaEngine
from sona.errors import ConfigError, RangeError
from sona.integrations.litellm import SonaRouter

# Which model answers which kind of question well.
GOOD = {"code": "openai/coder", "poem": "openai/poet"}
KINDS = ["code", "poem"]


def embed(text):
    """Code and poems, a little different each time."""
    rng = np.random.default_rng(len(text) + sum(map(ord, text)))
    return np.eye(8)[KINDS.index(text.split()[0])] + 0.15 * rng.standard_normal(8)


def quality(kwargs, response):
    kind = kwargs["messages"][-1]["content"].split()[0]
    return 0.9 if kwargs["litellm_params"]["metadata"]["deployment"] == GOOD[kind] else 0.2


def ask(kind, number=0):
    return [{"role": "user", "content": f"{kind} number {number}"}]


def models(**answers):
    answers = answers or {"coder": "I am coder", "poet": "I am poet"}
    return [
        {
            "model_name": "chat",
            "litellm_params": {"model": f"openai/{name}", "api_key": "none", "mock_response": said},
        }
        for name, said in answers.items()
    ]


def host(router=None, **options):
    made = litellm.Router(model_list=models(**options.pop("answers", {})), **options)
    if router is not None:
        litellm.logging_callback_manager.add_litellm_callback(router)
    return made


@pytest.fixture(scope="module", autouse=True)
def it_has_logged_before():
    """LiteLLM's first log imports for seconds, and LiteLLM gives up what takes it over twenty."""
    engine = SonaEngine(SonaConfig(hidden_dim=8))
    litellm_router = host(SonaRouter(engine, embed, quality))

    async def run():
        await litellm_router.acompletion(model="chat", messages=ask("code"))
        for _ in range(6_000):
            if engine.stats().trajectories_seen:
                return
            await asyncio.sleep(0.005)

    asyncio.run(run())
    litellm.logging_callback_manager._reset_all_callbacks()


@pytest.fixture(autouse=True)
def no_callbacks_stay():
    yield
    litellm.logging_callback_manager._reset_all_callbacks()


@pytest.fixture
def engine():
    return SonaEngine(SonaConfig(hidden_dim=8))


def answered_by(response):
    return response.choices[0].message.content.removeprefix("I am ")


async def logged(router, seen):
    """LiteLLM logs after it has answered, and sona learns after that."""
    engine = router._advisor.engine
    for _ in range(12_000):
        if engine.stats().trajectories_seen >= seen:
            return router.flush()
        await asyncio.sleep(0.005)
    raise AssertionError(f"{engine.stats().trajectories_seen} of {seen} were learned")


def all_right(picks):
    return [pick == GOOD[kind].removeprefix("openai/") for kind, pick in picks]


def test_it_learns_in_asynchronous_calls(engine):
    router = SonaRouter(engine, embed, quality)
    litellm_router = host(router)

    async def run():
        picks = []
        for turn in range(60):
            kind = KINDS[turn % 2]
            response = await litellm_router.acompletion(model="chat", messages=ask(kind, turn))
            picks.append((kind, answered_by(response)))
            await logged(router, turn + 1)
        return picks

    picks = asyncio.run(run())
    assert all(all_right(picks)[-20:])
    assert not all(all_right(picks)[:10])
    assert router.failures == 0


def test_it_learns_in_synchronous_calls(engine):
    router = SonaRouter(engine, embed, quality)
    litellm_router = host()
    router.install(litellm_router)
    picks = []
    for turn in range(60):
        kind = KINDS[turn % 2]
        picks.append((kind, answered_by(litellm_router.completion("chat", ask(kind, turn)))))
        asyncio.run(logged(router, turn + 1))
    assert all(all_right(picks)[-20:])
    assert router.failures == 0


def test_installed_it_serves_asynchronous_calls_too(engine):
    router = SonaRouter(engine, embed, quality)
    litellm_router = host()
    router.install(litellm_router)

    async def run():
        for turn in range(4):
            await litellm_router.acompletion(model="chat", messages=ask("code", turn))
        await logged(router, 4)

    asyncio.run(run())


@pytest.mark.parametrize("by", ["response", "call"])
def test_feedback_by_request(engine, by):
    router = SonaRouter(engine, embed)
    litellm_router = host()
    router.install(litellm_router)
    response = litellm_router.completion("chat", ask("code"))
    ids = {"response": response.id, "call": response._hidden_params["litellm_call_id"]}
    asyncio.run(answered(router, ids[by]))
    router.flush()
    route = "openai/" + answered_by(response)
    assert engine.stats().routes[route].mean == pytest.approx(0.75)
    for request_id in (*ids.values(), "nothing"):
        with pytest.raises(RangeError, match="waits for no feedback"):
            router.feedback(request_id, 0.5)
    with pytest.raises(RangeError, match="`quality`"):
        router.feedback("nothing", 1.5)


async def answered(router, request_id):
    for _ in range(400):
        try:
            return router.feedback(request_id, 0.75)
        except RangeError:
            await asyncio.sleep(0.005)
    raise AssertionError("the answer was not logged")


def teach(engine, kind, **worth):
    for number in range(30):
        for route, value in worth.items():
            trajectory = engine.begin_trajectory(embed(f"{kind} number {number}"))
            trajectory.set_model_route(f"openai/{route}")
            engine.end_trajectory(trajectory, value)


@pytest.mark.parametrize("weight", ["cost_weight", "latency_weight"])
def test_what_a_model_costs_counts(engine, weight):
    """Two equally good models: the dearer and the slower one is left."""
    teach(engine, "code", coder=0.8, poet=0.8)
    router = SonaRouter(engine, embed, lambda *_: 0.8, explore=0, **{weight: 0.5})
    litellm_router = host(router)
    router._advisor.spent("openai/coder", cost=1.0, seconds=1.0)
    router._advisor.spent("openai/poet", cost=0.1, seconds=0.1)

    async def run():
        picks = set()
        for n in range(6):
            response = await litellm_router.acompletion(model="chat", messages=ask("code", n))
            picks.add(answered_by(response))
            await logged(router, 60 + n + 1)
        return picks

    assert asyncio.run(run()) == {"poet"}


def test_cost_and_latency_come_from_the_log(engine):
    router = SonaRouter(engine, embed, quality)
    litellm_router = litellm.Router(
        model_list=[
            {
                "model_name": "chat",
                "litellm_params": {
                    "model": f"openai/{name}",
                    "api_key": "none",
                    "mock_response": "I am " + name,
                    "input_cost_per_token": price,
                    "output_cost_per_token": price,
                },
            }
            for name, price in {"coder": 1e-3, "poet": 1e-5}.items()
        ]
    )
    router.install(litellm_router)
    for turn in range(12):
        litellm_router.completion("chat", ask("code", turn))
        asyncio.run(logged(router, turn + 1))
    known = router._advisor._expenses
    assert known["openai/coder"].cost > 50 * known["openai/poet"].cost > 0
    assert all(0 < each.seconds < 10 for each in known.values())


def test_a_failure_of_the_provider_is_an_outcome(engine):
    teach(engine, "code", coder=0.9, poet=0.1)
    before = engine.stats().routes["openai/coder"]
    router = SonaRouter(engine, embed, quality, explore=0)
    litellm_router = host(router, num_retries=0, disable_cooldowns=True)

    async def run(error):
        with pytest.raises(type(error)):
            await litellm_router.acompletion(
                model="chat", messages=ask("code"), mock_response=error
            )
        await asyncio.sleep(0.3)
        router.flush()
        return engine.stats().routes["openai/coder"].count - before.count

    down = litellm.InternalServerError("down", "openai", "coder")
    assert asyncio.run(run(down)) == 1
    refused = litellm.BadRequestError("no", "coder", "openai")
    assert asyncio.run(run(refused)) == 1


def test_a_failed_model_is_not_asked_again(engine):
    teach(engine, "code", coder=0.9, poet=0.1)
    router = SonaRouter(engine, embed, quality, explore=0)
    answers = {"coder": "litellm.InternalServerError", "poet": "I am poet"}
    litellm_router = host(router, num_retries=3, answers=answers)

    async def run():
        response = await litellm_router.acompletion(model="chat", messages=ask("code"))
        return answered_by(response)

    assert asyncio.run(run()) == "poet"


# Fail open


def broken(text):
    raise OSError("the embedding model is gone")


@pytest.mark.parametrize(
    "wrong", [broken, lambda text: [1.0], lambda text: None], ids=["raises", "short", "none"]
)
@pytest.mark.parametrize("sync", [True, False])
def test_requests_are_served_whatever_happens(engine, caplog, wrong, sync):
    router = SonaRouter(engine, wrong, quality)
    litellm_router = host(router)

    async def run():
        return [
            answered_by(await litellm_router.acompletion(model="chat", messages=ask("code")))
            for _ in range(20)
        ]

    with caplog.at_level(logging.ERROR, "sona.integrations"):
        if sync:
            router.install(litellm_router)
            picks = [answered_by(litellm_router.completion("chat", ask("code"))) for _ in range(20)]
        else:
            picks = asyncio.run(run())
    assert set(picks) == {"coder", "poet"}  # as without sona
    assert router.failures >= 20
    assert [record.name for record in caplog.records].count("sona.integrations") == 1


def test_a_quality_function_that_fails_stops_nothing(engine):
    def wrong(kwargs, response):
        raise KeyError("my key")

    router = SonaRouter(engine, embed, wrong)
    litellm_router = host()
    router.install(litellm_router)
    assert litellm_router.completion("chat", ask("code")).choices
    for _ in range(400):
        if router.failures:
            break
        time.sleep(0.005)
    assert router.failures == 1
    assert engine.stats().trajectories_seen == 0


def test_while_the_engine_learns_routing_is_as_it_was(engine):
    teach(engine, "code", coder=0.9, poet=0.1)
    router = SonaRouter(engine, embed, explore=0)  # learns no answer by itself, at no odd moment
    litellm_router = host(router)

    async def run():
        return {
            answered_by(await litellm_router.acompletion(model="chat", messages=ask("code")))
            for _ in range(20)
        }

    with router._advisor._turn:  # as the learner does
        assert asyncio.run(run()) == {"coder", "poet"}
    assert asyncio.run(run()) == {"coder"}


def test_what_sona_cannot_decide_is_left_alone(engine):
    router = SonaRouter(engine, broken, quality)  # must not be asked
    litellm_router = host(router, answers={"coder": "I am coder"})
    two = host(router)

    async def run():
        await litellm_router.acompletion(model="chat", messages=ask("code"))
        await two.acompletion(model="chat", messages=[{"role": "system", "content": "code"}])

    asyncio.run(run())
    assert router.failures == 0


def test_embeddings_may_be_awaited(engine):
    async def remote(text):
        await asyncio.sleep(0.001)
        return embed(text)

    teach(engine, "code", coder=0.9, poet=0.1)
    router = SonaRouter(engine, remote, quality, explore=0)
    litellm_router = host(router)

    async def run():
        response = await litellm_router.acompletion(model="chat", messages=ask("code"))
        return answered_by(response)

    assert asyncio.run(run()) == "coder"
    router.install(litellm_router)
    assert answered_by(litellm_router.completion("chat", ask("code"))) == "coder"
    assert router.failures == 0


def test_parts_of_a_message_are_read(engine):
    teach(engine, "code", coder=0.9, poet=0.1)
    router = SonaRouter(engine, embed, quality, explore=0)
    litellm_router = host(router)
    parts = [{"type": "text", "text": "code number"}, {"type": "text", "text": "7"}]

    async def run():
        message = {"role": "user", "content": parts}
        return answered_by(await litellm_router.acompletion(model="chat", messages=[message]))

    assert asyncio.run(run()) == "coder"


def test_arguments_are_checked(engine):
    for wrong in (None, "text-embedding-3-small"):
        with pytest.raises(ConfigError, match="`embed` must be a function"):
            SonaRouter(engine, wrong)
    with pytest.raises(ConfigError, match="`quality` must be a function"):
        SonaRouter(engine, embed, 0.5)
    with pytest.raises(RangeError, match="`cost_weight`"):
        SonaRouter(engine, embed, cost_weight=-1.0)
    with pytest.raises(RangeError, match="`explore`"):
        SonaRouter(engine, embed, explore=-1)
    with pytest.raises(ConfigError, match="simple-shuffle"):
        SonaRouter(engine, embed).install(host(routing_strategy="latency-based-routing"))


def test_the_proxy_finds_it_by_one_line(tmp_path):
    """As the proxy resolves `litellm_settings: {callbacks: my_sona.router}`."""
    from litellm.proxy.types_utils.utils import get_instance_fn

    (tmp_path / "my_sona.py").write_text(
        textwrap.dedent(
            """
            from sona import SonaConfig, SonaEngine
            from sona.integrations.litellm import SonaRouter

            router = SonaRouter(SonaEngine(SonaConfig(hidden_dim=8)), embed=lambda text: [1.0] * 8)
            """
        )
    )
    config = str(tmp_path / "config.yaml")
    assert type(get_instance_fn("my_sona.router", config)).__name__ == "SonaRouter"
