"""A whole agent process, beside a bare interpreter that imports NumPy.

    python -m bench.network.cold_agent [--times 15]

The agent starts, fetches a warm start from a coordinator process, answers one request, hands its
export in, waits for the acknowledgement and exits. The coordinator knows 50 agents' outcomes in
64 dimensions. Both are timed in turn, so that what else the machine does meets both.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.network.process import NodeProcess, free_endpoint
from bench.network.throughput import exports

from sona.federated.network import Link, Security

DIM = 64

BARE = "import numpy"
AGENT = f"""
import sys
import numpy as np
from sona import SonaConfig
from sona.federated import EphemeralAgent
from sona.federated.network import Link, Security
where, name = sys.argv[1:]
with Link(where, name, security=Security.off()) as link:
    config = SonaConfig.for_ephemeral(hidden_dim={DIM})
    agent = EphemeralAgent(name, config, warm_start=link.warm_start())
    query = np.ones({DIM}, np.float32)
    route = agent.route(query, ["small", "large"]).route
    agent.process_trajectory(query, query, 1.0, route)
    result = link.submit(agent.export_state())
    assert not result.duplicate
"""


def timed(*line: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", *line], check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=15)
    args = parser.parse_args()
    where = free_endpoint()
    with tempfile.TemporaryDirectory() as folder:
        process = NodeProcess(
            "coordinator", "--listen", where, store=Path(folder, "star.db"), dim=DIM
        )
        with Link(where, "fleet", security=Security.off()) as link:
            for export in exports(50, 40, DIM):
                link.submit(export)
            while link.warm_start().version < 50 * 40:
                time.sleep(0.1)
            size = len(link.warm_start().to_bytes())
        bare, agent = [], []
        for number in range(args.times):
            bare.append(timed(BARE))
            agent.append(timed(AGENT, where, f"cold-{number}"))
        process.kill()
    ratios = [a / b for a, b in zip(agent, bare, strict=True)]
    print(f"warm start of {size / 1e3:.0f} kB")
    print(f"bare interpreter with numpy: {1e3 * statistics.median(bare):6.0f} ms")
    print(f"whole agent:                 {1e3 * statistics.median(agent):6.0f} ms")
    print(f"ratio, median of pairs:      {statistics.median(ratios):6.2f}")


if __name__ == "__main__":
    main()
