"""Latency that `SonaRouter` adds to a call of LiteLLM's Router with mock responses.

    python -m bench.integrations.litellm [--remembered 1000]

Routing is timed inside the call: the filter that LiteLLM awaits, on its own and as the difference
between a Router with and one without sona. The embedding is a lookup, so that sona is timed and
not the embedding model. Bound: p50 of the filter below 0.2 ms. The time that the filter's thread
had a processor is what it takes on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import litellm

from sona import SonaConfig, SonaEngine
from sona.integrations.litellm import SonaRouter

DIM = 384


def milliseconds(seconds: list[float]) -> str:
    p50, p95 = np.percentile(seconds, [50, 95]) * 1e3
    return f"p50 {p50:.3f} ms  p95 {p95:.3f} ms"


async def run(remembered: int, calls: int) -> None:
    rng = np.random.default_rng(0)
    engine = SonaEngine(SonaConfig(hidden_dim=DIM))
    models = ["openai/coder", "openai/poet"]
    for _ in range(remembered):
        trajectory = engine.begin_trajectory(rng.standard_normal(DIM))
        trajectory.set_model_route(models[rng.integers(2)])
        engine.end_trajectory(trajectory, float(rng.random()))
    engine.force_learn()
    texts = [str(number) for number in range(calls)]
    vectors = dict(zip(texts, rng.standard_normal((calls, DIM)).astype(np.float32), strict=True))
    router = SonaRouter(engine, vectors.__getitem__)
    host = litellm.Router(
        model_list=[
            {
                "model_name": "chat",
                "litellm_params": {"model": model, "api_key": "none", "mock_response": "yes"},
            }
            for model in models
        ]
    )
    # By one clock at a time, in turns: a reading of the thread's asks the kernel, which would be
    # a tenth of the filter's time on the other.
    clocks = itertools.cycle((time.perf_counter, time.thread_time))
    filtered: dict[Callable[[], float], list[float]] = defaultdict(list)
    plain = router.async_filter_deployments

    async def timed(*args: object, **kwargs: object) -> object:
        clock = next(clocks)
        start = clock()
        kept = await plain(*args, **kwargs)
        filtered[clock].append(clock() - start)
        assert len(kept) == 1
        return kept

    router.async_filter_deployments = timed  # type: ignore[method-assign]

    async def call(text: str) -> float:
        start = time.perf_counter()
        await host.acompletion(model="chat", messages=[{"role": "user", "content": text}])
        return time.perf_counter() - start

    await call(texts[0])
    took: dict[bool, list[float]] = {False: [], True: []}
    for text in texts:  # in turns, so that a slow spell of the machine hits both
        for on in took:
            litellm.callbacks = [router] if on else []
            took[on].append(await call(text))
    print(f"{remembered} outcomes remembered, {calls} calls each way")
    print("filter           ", milliseconds(filtered[time.perf_counter]))
    print("... on a processor", milliseconds(filtered[time.thread_time]))
    print("call without sona", milliseconds(took[False]))
    print("call with sona   ", milliseconds(took[True]))
    assert router.failures == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--remembered", type=int, default=1_000)
    parser.add_argument("--calls", type=int, default=400)
    arguments = parser.parse_args()
    asyncio.run(run(arguments.remembered, arguments.calls))


if __name__ == "__main__":
    main()
