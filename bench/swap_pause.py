#!/usr/bin/env python3
"""What running streams feel of a swap: inter-token latency while models are swapped, beside before.

    FLA_SERVER=build/cpu/server/fla-server .venv/bin/python bench/swap_pause.py A B

A and B are checkpoint folders; the server swaps between them by edits of its config while streams
run without a pause. Latencies are the server's own (fla_inter_token_latency_seconds), so that the
speed of this client does not count; a quantile is interpolated within its bucket.
"""
import argparse
import pathlib
import sys
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/end_to_end"))
import conftest  # noqa: E402, F401  (makes the stubs)
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from server_process import ServerProcess, request  # noqa: E402
from swapping import edit, listed, model, serving, wait_for  # noqa: E402

METRIC = "fla_inter_token_latency_seconds_bucket"


def buckets(server):
    """{upper bound: count up to it}"""
    with urllib.request.urlopen(server.metrics_url) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {float(s.labels["le"]): s.value for f in families for s in f.samples
            if s.name == METRIC}


def quantile(counts, q):
    total = max(counts.values())
    below, lower = 0.0, 0.0
    for bound, count in sorted(counts.items()):
        if count >= q * total:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (q * total - below) / max(count - below, 1e-9)
        below, lower = count, bound
    return lower


def report(name, parts):
    counts = {bound: sum(part[bound] for part in parts) for bound in parts[0]}
    print(f"| {name} | {max(counts.values()):.0f} | " + " | ".join(
        f"{quantile(counts, q) * 1e3:.2f}" for q in (0.5, 0.9, 0.99, 0.999)) + " |", flush=True)


class Streams:
    """Streams that follow each other without end."""

    def __init__(self, server, count, tokens):
        self.server, self.tokens, self.errors = server, tokens, []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.run) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def run(self):
        while not self.stopping.is_set():
            try:
                for _ in self.server.inference.GenerateStream(request(
                        ids=[1, 2, 3, 4], ignore_eos=True, max_new_tokens=self.tokens)):
                    pass
            except Exception as error:  # reported at the end, with how many there were
                self.errors.append(error)

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs=2, type=pathlib.Path)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--swaps", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=200, help="of each stream")
    parser.add_argument("--seconds", type=float, default=10, help="without a swap, before")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="f32")
    arguments = parser.parse_args()
    options = dict(device=arguments.device, dtype=arguments.dtype, slots=2 * arguments.streams)
    paths = [path.resolve() for path in arguments.checkpoints]
    with ServerProcess(models=[model("m", paths[0], **options)], default_model="m") as server:
        streams = Streams(server, arguments.streams, arguments.tokens)
        time.sleep(2)
        begin = buckets(server)
        time.sleep(arguments.seconds)
        end = buckets(server)
        before = {bound: end[bound] - begin[bound] for bound in end}
        during, seconds = [], []
        for i in range(1, arguments.swaps + 1):
            old, begin, started = serving(server, "m").version, buckets(server), time.monotonic()
            edit(server, models=[model("m", paths[i % 2], **options)])
            wait_for(lambda: (m := serving(server, "m")) and m.version != old, seconds=600)
            seconds.append(time.monotonic() - started)
            wait_for(lambda: len(listed(server)) == 1, seconds=600)  # the old one is freed
            end = buckets(server)
            during.append({bound: end[bound] - begin[bound] for bound in end})
            time.sleep(1)
        streams.stop()
        print(f"{arguments.streams} streams, {arguments.swaps} swaps; edit to serving: median "
              f"{sorted(seconds)[len(seconds) // 2]:.2f} s; errors: {len(streams.errors)}")
        print("| inter-token latency, ms | tokens | p50 | p90 | p99 | p99.9 |\n|---|---|---|---|---|---|")
        report("before", [before])
        report("from edit to freed", during)


if __name__ == "__main__":
    main()
