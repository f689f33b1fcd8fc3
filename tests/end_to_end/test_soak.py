"""Hours in the life of a server: good and bad clients side by side, flat memory, no error of its own.

Runs for FLA_SOAK_SECONDS, which ./dev soak sets; without it, not at all."""
import concurrent.futures
import json
import os
import statistics
import subprocess
import sys
import time

import pytest

from server_process import CLI
from test_faults import answer, misbehave, open_files, resident_bytes, wait_until_idle

SECONDS = float(os.environ.get("FLA_SOAK_SECONDS", 0))
ROUND_SECONDS = 15
WARM_UP = 0.2  # of the time, while pools and buffers grow to their size


def bench(server, *arguments):
    result = subprocess.run([CLI, "bench", "--address", server.address, "--json",
                             *map(str, arguments)], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout)


def load(server, seed):
    """A round of good requests, a fifth of which is cancelled; its report."""
    return bench(server, "--concurrency", 12, "--duration", ROUND_SECONDS, "--prompt-tokens",
                 "lognormal:60:1:2000", "--output-tokens", "1-80", "--cancel-fraction", 0.2,
                 "--seed", seed)


def use_every_slot(server):
    """The states of a slot take memory when it is first used."""
    slots = server.config["models"][0]["slots"]
    bench(server, "--concurrency", 2 * slots, "--requests", 4 * slots, "--prompt-tokens", 32,
          "--output-tokens", 32)


@pytest.mark.skipif(SECONDS == 0, reason="FLA_SOAK_SECONDS is not set")
def test_soak(start_server):
    server = start_server(log={"requests": False})
    port = int(server.address.rpartition(":")[2])
    expected = answer(server)
    use_every_slot(server)
    begin = time.monotonic()
    samples, requests, cancelled, faulty, files = [], 0, 0, 0, 0
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        while (elapsed := time.monotonic() - begin) < SECONDS:
            faults = pool.submit(misbehave, port, 60, seed=len(samples))
            report = load(server, seed=len(samples))
            faults.result()
            wait_until_idle(server)
            assert answer(server) == expected
            requests += report["succeeded"]
            cancelled += report["cancelled"]
            faulty += 60
            files = max(files, open_files(server)) if elapsed < SECONDS * WARM_UP else files
            samples.append((elapsed, resident_bytes(server)))
            print(f"{elapsed:6.0f} s {samples[-1][1] / 1e6:7.1f} MB, {requests} requests, {cancelled} "
                  f"cancelled, {faulty} faulty clients, p99 of the time to the first token "
                  f"{report['ttft_seconds']['p99'] * 1e3:.0f} ms", file=sys.stderr)

    warm = [bytes for seconds, bytes in samples if seconds >= SECONDS * WARM_UP]
    assert len(warm) >= 3, "too short to say"
    third = len(warm) // 3
    growth = statistics.median(warm[-third:]) / statistics.median(warm[:third]) - 1
    print(f"memory grew by {growth:+.2%}", file=sys.stderr)
    assert growth <= 0.01
    assert open_files(server) <= files
    for reason in ("error", "unavailable"):
        assert server.metric("fla_requests_total", finish_reason=reason) == 0
    assert server.metric("fla_admission_rejections_total", reason="queue_full") == 0
    assert server.metric("fla_state_nonfinite_total") == 0
