"""How soon the page paints, in Chromium with an empty cache, on loopback.

    python -m bench.service.paint [--visits 10]

A fleet of digits agents has reported. First paint and the time until the board is drawn, from the
browser's own clock, per visit.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from bench.service.process import ServiceProcess, free_port
from playwright.sync_api import sync_playwright

from sona import SonaConfig
from sona.cli.demo import serve
from sona.cli.digits import DigitFleet
from sona.service import Client

_PAINTS = "performance.getEntriesByType('paint').map(entry => entry.startTime)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visits", type=int, default=10)
    args = parser.parse_args()
    world, config = DigitFleet(0), SonaConfig.for_ephemeral(hidden_dim=64)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        service = ServiceProcess(Path(folder, "service"), free_port())
        client = Client(service.url)
        for number in range(12):
            with client.agent(f"digits-{number}", config) as agent:
                serve(agent, world.slice(50), world.routes, keep_failures=True)
        while service.get("/v1/warm-start")[0] != 200:
            time.sleep(0.1)
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        paints, boards = [], []
        for _ in range(args.visits):
            context = browser.new_context()
            page = context.new_page()
            page.goto(service.url)
            page.wait_for_selector("#map circle")
            boards.append(page.evaluate("performance.now()"))
            paints.append(max(page.evaluate(_PAINTS)))
            context.close()
        browser.close()
        service.stop()
    for name, seen in (("first contentful paint", paints), ("board drawn", boards)):
        print(f"{name}: median {statistics.median(seen):.0f} ms, worst {max(seen):.0f} ms")


if __name__ == "__main__":
    main()
