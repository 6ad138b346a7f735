"""An innocent client in a process of its own, so that the test's own work does not show in its figures: reads and writes
in turn on one connection for a while, checks every reply, then prints the latencies' p50, p99 and maximum in ms as JSON.
    python bystander.py PORT SECONDS
"""

import json
import sys
import time

import wire


def measure(port, seconds):
    connection = wire.open_session(port, timeout_ms=30000)
    path = connection.create("/bystander-", b"x" * 100, flags=wire.SEQUENTIAL | wire.EPHEMERAL)
    took_ms = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        number = b"%d" % len(took_ms)
        for call in (lambda: connection.set_data(path, number), lambda: connection.get_data(path)):
            begin = time.perf_counter()
            answer = call()
            took_ms.append((time.perf_counter() - begin) * 1000)
        assert answer[0] == number
        time.sleep(0.002)
    took_ms.sort()
    return {"calls": len(took_ms), "p50": took_ms[len(took_ms) // 2], "p99": took_ms[len(took_ms) * 99 // 100], "max": took_ms[-1]}


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), float(sys.argv[2]))))
