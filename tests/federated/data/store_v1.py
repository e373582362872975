"""Writes store_v1.db: a coordinator's store as schema version 1 left it.

Run with the release that wrote it (commit 2446b9c): python store_v1.py
"""

from pathlib import Path

import numpy as np

from sona import SonaConfig
from sona.federated import AgentExport, FederatedCoordinator, TrajectoryExport

HERE = Path(__file__).parent


def main() -> None:
    path = HERE / "store_v1.db"
    coordinator = FederatedCoordinator("v1", SonaConfig.for_coordinator(hidden_dim=4), store=path)
    for agent in range(3):
        rng = np.random.default_rng(agent)
        for sent in (1, 2):  # the second supersedes the first
            rows = [
                TrajectoryExport(
                    np.eye(4)[agent] + 0.1 * rng.standard_normal(4), 0.9, "a", ("v1",), 1000 + row
                )
                for row in range(4 * sent)
            ]
            coordinator.aggregate(AgentExport(f"agent-{agent}", rows, None, 10 * sent, 10 * sent))
    coordinator.close()
    assert not (HERE / "store_v1.db-wal").exists()


if __name__ == "__main__":
    main()
