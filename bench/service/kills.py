"""Ten thousand exports into a service that is killed every few seconds.

    python -m bench.service.kills [--exports 10000 --clients 4 --rows 12 --every 3]

Clients with a spool send while the service is killed with SIGKILL, at random moments, and started
again. In the end: every export that was acknowledged is stored once and learned once, nothing
else is there, and sending some of them again changes nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from pathlib import Path

from bench.network.throughput import exports
from bench.service.process import ServiceProcess, free_port

from sona.federated import AgentExport
from sona.federated.store import open_store
from sona.service import Client
from sona.service.folder import STORE, TENANTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exports", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--every", type=float, default=3.0, help="seconds between kills")
    args = parser.parse_args()
    made = exports(args.exports, args.rows, args.dim)
    dice, done = random.Random(0), threading.Event()
    acknowledged: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        store, port = Path(folder, "service"), free_port()
        service = ServiceProcess(store, port)

        def send(number: int, share: list[AgentExport]) -> None:
            client = Client(service.url, spool=Path(folder, f"spool-{number}"), retries=0)
            for export in share:
                while client.send(export) is None:
                    time.sleep(0.05)
                acknowledged.append(export.agent_id)
            client.close()

        threads = [
            threading.Thread(target=send, args=(n, made[n :: args.clients]))
            for n in range(args.clients)
        ]
        began, kills = time.perf_counter(), 0
        for thread in threads:
            thread.start()
        threading.Thread(target=lambda: [t.join() for t in threads] and done.set()).start()
        while not done.wait(args.every * dice.uniform(0.5, 1.5)):
            service.kill()
            kills += 1
            service = ServiceProcess(store, port)
        sent = time.perf_counter() - began
        rows = args.exports * args.rows
        while json.loads(service.get("/v1/overview")[1])["version"] != rows:
            time.sleep(0.1)
        learned = time.perf_counter() - began
        client = Client(service.url)
        again = sum(
            not client.send(export).duplicate for export in made[:: max(1, args.exports // 500)]
        )  # type: ignore[union-attr]
        client.close()
        status, agents = service.get("/v1/agents?limit=1")
        service.stop()
        held = open_store(store / TENANTS / "default" / STORE)
        stored = [export for export in made if held.export(export.session) is not None]
        faults = held.check()
        held.close()
    assert status == 200
    assert sorted(acknowledged) == sorted(export.agent_id for export in made)
    assert len(stored) == json.loads(agents)["total"] == args.exports
    assert again == 0
    assert not faults
    print(f"{args.exports} exports, {kills} kills, {sent:.0f} s; all learned after {learned:.0f} s")
    print(f"acknowledged {len(acknowledged)} = stored {len(stored)} = learned {rows // args.rows}")


if __name__ == "__main__":
    main()
