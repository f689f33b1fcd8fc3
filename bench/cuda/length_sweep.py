#!/usr/bin/env python3
"""Time of a prefill against its length, 1k to 1M tokens of one sequence: ours, the installed peers, and cuDNN's softmax
attention (16 heads of 128, causal, bf16).

  length_sweep.py LIBRARY OUT [--peers NAMES] [--shapes NAMES] [--seconds-a-point S] [--patience S] [--seconds S]
                  writes OUT.csv and, where matplotlib is installed, OUT.png
  length_sweep.py --plot OUT
                  only the picture, from OUT.csv

A point is left out, with its reason in the file, once it would take longer than --seconds-a-point by the one before it,
or needs more memory than there is. Peers that take raw inputs alone (flash_kda) include the norms and gates.
"""
import argparse
import csv
import functools
import math
import os
import sys
import time

import torch

from graph_time import median_ms, queued_ms
from peer_process import describe, emit, gather
from prefill_inputs import make_inputs
from prefill_library import PrefillLibrary
from prefill_peers import PEERS
from prefill_rows import Row

LENGTHS = [1024 << i for i in range(11)]
SHAPES = {
    "KDA H8": ("kda", 8, 8, 128, 128),
    "KDA H64": ("kda", 64, 64, 128, 128),
    "GDN 16/32": ("gdn", 16, 32, 128, 128),
}
ATTENTION = "softmax attention H16, cuDNN"


def attention_call(length):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    q, k, v = (torch.randn(1, 16, length, 128, dtype=torch.bfloat16, device="cuda") for _ in range(3))

    def call():
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    return call, None


@functools.cache
def open_library(path):
    return PrefillLibrary(path)


def kernel_call(options, shape, who, length):
    """A call and the stream that it uses; no call where the peer does not take the shape."""
    row = Row(f"{shape} 1x{length}", *SHAPES[shape], (length,))
    inputs = make_inputs(row)
    if who == "ours":
        library = open_library(options.library)
        return library.call(row, inputs), library.stream
    return PEERS[who](row, inputs) or PEERS[who](row, inputs, raw=True), None


def milliseconds(call, stream):
    first = queued_ms(call, calls=1, stream=stream, repeats=1)  # after a call that may have compiled
    if first > 100:
        return first
    try:
        return median_ms(call, calls=max(1, min(4, int(20 / first))), stream=stream)
    except Exception:
        torch.cuda.synchronize()
        return queued_ms(call, calls=4, stream=stream)


def measure(options, shape, who):
    """One line of the plot, one record a point."""
    before = 0
    for length in LENGTHS:
        record = dict(shape=shape, who=who, tokens=length)
        growth = 4 if shape == ATTENTION else 2
        if before * growth > options.seconds_a_point * 1e3:
            emit(**record, left_out=f"would take {before * growth / 1e3:.0f} s")
            return
        try:
            call, stream = attention_call(length) if shape == ATTENTION else kernel_call(options, shape, who, length)
            if call is None:
                return
            before = milliseconds(call, stream)
            emit(**record, ms=before)
        except torch.OutOfMemoryError:
            emit(**record, left_out="out of memory")
            return
        except Exception as error:
            emit(**record, left_out=describe(error))
            if isinstance(error, ImportError):
                return
            torch.cuda.synchronize()  # ends the process if its CUDA context is lost
        finally:
            call = None
            torch.cuda.empty_cache()


def write(path, records):
    with open(f"{path}.csv", "w", newline="") as file:
        lines = csv.DictWriter(file, ["shape", "who", "tokens", "ms", "left_out"], lineterminator="\n")
        lines.writeheader()
        for record in records:
            lines.writerow(record | dict(ms=f"{record['ms']:.4f}") if "ms" in record else record)


def plot(path):
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    with open(f"{path}.csv", newline="") as file:
        records = [record for record in csv.DictReader(file) if record["ms"]]
    shapes = [shape for shape in SHAPES if any(record["shape"] == shape for record in records)]
    colors = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(record["who"] for record in records))}
    figure, panels = pyplot.subplots(1, len(shapes), figsize=(5 * len(shapes), 4.5), sharey=True, squeeze=False)
    for panel, shape in zip(panels[0], shapes):
        for name in dict.fromkeys(record["who"] for record in records if record["shape"] in (shape, ATTENTION)):
            line = [(int(record["tokens"]), float(record["ms"])) for record in records
                    if record["who"] == name and record["shape"] in (shape, ATTENTION)]
            panel.plot(*zip(*line), marker="o", markersize=3, label=name, color=colors[name],
                       linewidth=2.5 if name == "ours" else 1.2, linestyle="--" if name == ATTENTION else "-")
        panel.set(xscale="log", yscale="log", title=f"{shape}, 128x128", xlabel="tokens of one sequence")
        panel.set_xscale("log", base=2)
        panel.set_xticks(LENGTHS[::2], [f"{length // 1024}k" if length < 1 << 20 else "1M" for length in LENGTHS[::2]])
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    panels[0][0].set_ylabel("ms of a layer's prefill, bf16")
    figure.tight_layout()
    figure.savefig(f"{path}.png", dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", nargs="?")
    parser.add_argument("out", nargs="?")
    parser.add_argument("--plot", metavar="OUT")
    parser.add_argument("--peers", default=",".join(PEERS), type=lambda names: names.split(","))
    parser.add_argument("--shapes", default=",".join(SHAPES), type=lambda names: names.split(","))
    parser.add_argument("--patience", type=float, default=60, help="seconds that a line may be silent")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of the whole sweep")
    parser.add_argument("--seconds-a-point", type=float, default=2)
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # "ours", ATTENTION or a peer
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    if options.plot:
        return plot(options.plot)
    if not options.out:
        parser.error("wanted LIBRARY OUT or --plot OUT")
    if options.measure:  # the child's side
        for shape in [ATTENTION] if options.measure == ATTENTION else options.shapes:
            measure(options, shape, options.measure)
        return None
    deadline = time.monotonic() + options.seconds
    records = []
    for who in ["ours", ATTENTION, *options.peers]:
        arguments = [os.path.abspath(__file__), options.library, options.out, "--measure", who,
                     "--shapes", ",".join(options.shapes), "--seconds-a-point", str(options.seconds_a_point)]
        own, problem = gather(arguments, options.patience, deadline)
        records += own
        for shape in dict.fromkeys(record["shape"] for record in own):
            points = " ".join(f"{r['tokens'] // 1024}k {r['ms']:.3f}" if "ms" in r else
                              f"{r['tokens'] // 1024}k: {r['left_out']}" for r in own if r["shape"] == shape)
            print(f"{shape}, {who}: {points}", flush=True)
        print(f"{who}: {problem or 'measured'}", flush=True)
        write(options.out, records)
    if not any(record.get("who") == "ours" and "ms" in record for record in records):
        return "no length was measured"
    try:
        plot(options.out)
    except ImportError as error:
        print(f"no picture: {error}")


if __name__ == "__main__":
    sys.exit(main())
