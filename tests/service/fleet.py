"""Real traffic for a service: agents that route handwritten digits, one wave after another."""

from __future__ import annotations

from contextlib import ExitStack

from tests.service.conftest import eventually

from sona import SonaConfig
from sona.cli.demo import serve
from sona.cli.digits import DigitFleet
from sona.service import Client


def run_waves(service, waves=4, agents=6, requests=50, **client_options):
    """Let agents report; those of the first wave start cold, the others with what came before."""
    world = DigitFleet(seed=1)
    config = SonaConfig.for_ephemeral(hidden_dim=64, seed=1)
    for wave in range(waves):
        with ExitStack() as stack:
            for number in range(agents):
                client = stack.enter_context(Client(service.url, **client_options))
                agent = stack.enter_context(client.agent(f"digits-{wave}-{number}", config))
                serve(agent, world.slice(requests), world.routes, keep_failures=True)
        seen = (wave + 1) * agents * requests
        eventually(lambda seen=seen: service.overview()["version"] >= seen)
    return world
