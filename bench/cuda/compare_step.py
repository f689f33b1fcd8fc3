#!/usr/bin/env python3
"""Times flash-linear-attention's recurrent kernels on the decode shapes of recurrence_bench and puts both side by side,
in bytes of f32 state read and written a second.

  compare_step.py RECURRENCE_BENCH
  compare_step.py --warm I/N     only compiles shapes I, I + N, ... of fla, for N processes side by side to fill
                                 Triton's cache before a run

Needs a GPU, torch and flash-linear-attention 0.5.2 or later. Both sides are medians of CUDA graph replays in this run.
(Prefill: compare_prefill.py.)
"""
import re
import subprocess
import sys

import torch
import triton

import tune_fewer  # noqa: F401  before fla is imported

from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule
from fla.ops.gla import fused_recurrent_gla
from fla.ops.kda import fused_recurrent_kda

from graph_time import median_ms
from peer_process import describe

# Name in recurrence_bench: op, heads, K, V.
SHAPES = {
    "GLA 256x512 H4": ("gla", 4, 256, 512),
    "GDN 256x512 H4": ("gdn", 4, 256, 512),
    "KDA 256x512 H4": ("kda", 4, 256, 512),
    "GDN 128x128 H16": ("gdn", 16, 128, 128),
}
CALLS = 40  # of a graph


def step_call(op, heads, key_dim, value_dim, count):
    """One token of `count` sequences: [N, 1, H, ...]."""
    bf16 = dict(dtype=torch.bfloat16, device="cuda")
    q, k = (torch.randn(count, 1, heads, key_dim, **bf16) for _ in range(2))
    k = torch.nn.functional.normalize(k.float(), dim=-1).to(torch.bfloat16)
    v = torch.randn(count, 1, heads, value_dim, **bf16)
    g = -0.1 * torch.rand((count, 1, heads) + ((key_dim,) if op in ("kda", "gla") else ()), device="cuda")
    beta = torch.rand(count, 1, heads, device="cuda").to(torch.bfloat16)
    options = dict(output_final_state=True,
                   initial_state=torch.zeros(count, heads, key_dim, value_dim, device="cuda"))
    return {
        "kda": lambda: fused_recurrent_kda(q, k, v, g, beta, **options),
        "gdn": lambda: fused_recurrent_gated_delta_rule(q, k, v, g, beta=beta, **options),
        "gla": lambda: fused_recurrent_gla(q, k, v, gk=g, **options),
    }[op]


def measured(call, calls):
    try:
        with torch.no_grad():
            return median_ms(call, calls)
    except Exception as error:  # one op that this fla or GPU cannot do must not end the run
        print(f"  fla: {describe(error)}")
        torch.cuda.synchronize()
        return float("nan")


def main():
    if sys.argv[1] == "--warm":
        index, count = map(int, sys.argv[2].split("/"))
        for shape in list(SHAPES.values())[index::count]:
            measured(step_call(*shape, 64), 1)
        return
    ours = {}
    output = subprocess.run([sys.argv[1], "step"], check=True, capture_output=True, text=True).stdout
    for match in re.finditer(r"^step (.*?)\s+N\s+(\d+) state f32\s+([\d.]+) ms", output, re.MULTILINE):
        ours[match[1], int(match[2])] = float(match[3])
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    print(f"{'step, TB/s of f32 state':34}{'ours':>9}{'fla':>9}{'ours/fla':>9}")
    for name, shape in SHAPES.items():
        for count in (1, 8, 64, 256, 1024):
            fla = measured(step_call(*shape, count), CALLS)
            _, heads, key_dim, value_dim = shape
            terabytes = count * heads * key_dim * value_dim * 8e-9
            ms = ours[name, count]
            print(f"{name + ' N=' + str(count):34}{terabytes / ms:9.2f}{terabytes / fla:9.2f}{fla / ms:9.2f}", flush=True)


if __name__ == "__main__":
    main()
