"""A hundred thousand damaged bodies: no crash, no 500, bounded memory, every refusal typed.

python -m bench.service.fuzz [--bodies 100000 --clients 4 --seed 0]
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from bench.network.throughput import exports
from bench.service.process import ServiceProcess, free_port


def damaged(data: bytes, dice: random.Random) -> bytes:
    """Truncated, flipped, cut, filled up, with lengths that lie, or nothing like an export."""
    kind = dice.randrange(6)
    body = bytearray(data)
    place = dice.randrange(len(body))
    if kind == 0:
        return bytes(body[:place])
    if kind == 1:
        for _ in range(dice.randrange(1, 8)):
            body[dice.randrange(len(body))] ^= 1 << dice.randrange(8)
    elif kind == 2:
        del body[place : place + dice.randrange(1, 64)]
    elif kind == 3:
        body[place:place] = dice.randbytes(dice.randrange(1, 64))
    elif kind == 4:
        body[:8] = dice.randbytes(dice.randrange(1, 8)).ljust(8, b"\0")
    else:
        return dice.randbytes(dice.randrange(4_000))
    return bytes(body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bodies", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    good = exports(1, 12, 8)[0].to_bytes()
    answers: Counter[int] = Counter()
    untyped: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder:
        service = ServiceProcess(Path(folder, "service"), free_port())

        def send(number: int) -> None:
            dice = random.Random(1_000 * args.seed + number)
            connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
            for _ in range(args.bodies // args.clients):
                connection.request("POST", "/v1/exports", damaged(good, dice))
                answer = connection.getresponse()
                told = answer.read()
                answers[answer.status] += 1
                if answer.status >= 300 and not json.loads(told)["detail"]:
                    untyped.append(told)

        began = time.perf_counter()
        threads = [threading.Thread(target=send, args=(n,)) for n in range(args.clients)]
        before = service.rss_mib()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        after, took = service.rss_mib(), time.perf_counter() - began
        assert service.get("/readyz")[0] == 200
        service.stop()
    print(f"{sum(answers.values())} bodies in {took:.0f} s; answers {dict(answers)}")
    print(f"memory of the service: {before:.0f} MiB before, {after:.0f} MiB after")
    assert sum(answers.values()) == args.bodies // args.clients * args.clients
    assert not untyped
    assert not any(status >= 500 for status in answers)


if __name__ == "__main__":
    main()
