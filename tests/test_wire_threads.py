"""The first messages may be read by several threads at once."""

import subprocess
import sys

RACE = """
import sys, threading
from sona import SonaConfig, SonaEngine
from sona.federated import AgentExport, TrajectoryExport

sys.setswitchinterval(1e-6)
export = AgentExport("a", [TrajectoryExport([1.0, 2.0], 0.5, "r")]).to_bytes()
state = SonaEngine(SonaConfig(hidden_dim=2)).to_bytes()
together = threading.Barrier(16)

def read(number):
    together.wait()
    AgentExport.from_bytes(export) if number % 2 else SonaEngine.from_bytes(state)

threads = [threading.Thread(target=read, args=(number,)) for number in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_threads_that_read_the_first_messages_do_not_kill_the_process():
    for _ in range(4):  # without a lock two of three such processes died
        subprocess.run([sys.executable, "-c", RACE], check=True, timeout=60)
