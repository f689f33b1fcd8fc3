#!/usr/bin/env python3
"""Times flash-linear-attention's recurrent kernels on the decode shapes of recurrence_bench and puts both side by side,
in bytes of f32 state read and written a second: one call repeated, some of whose states the L2 cache still has, and
calls one after the other on states of LAYERS layers, as a model makes them. "copied": as many bytes to shared memory
and back in place, with nothing computed.

  compare_step.py RECURRENCE_BENCH [TEXT] [N,...]
                                 TEXT: only shapes with it in their names; N: only so many sequences
  compare_step.py --warm I/N     only compiles shapes I, I + N, ... of fla, for N processes side by side to fill
                                 Triton's cache before a run

Needs a GPU, torch and flash-linear-attention 0.5.2 or later. Both sides are medians of CUDA graph replays in this run.
(Prefill: compare_prefill.py.)
"""
import itertools
import math
import re
import subprocess
import sys

import torch
import triton

import tune_fewer  # noqa: F401  before fla is imported

from fla.ops.delta_rule import fused_recurrent_delta_rule
from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule
from fla.ops.gla import fused_recurrent_gla
from fla.ops.kda import fused_recurrent_kda
from fla.ops.linear_attn import fused_recurrent_linear_attn
from fla.ops.simple_gla import fused_recurrent_simple_gla

from graph_time import median_ms
from peer_process import describe

# Name in recurrence_bench: op, heads, K, V.
SHAPES = {
    "linear 256x512 H4": ("linear", 4, 256, 512),
    "RetNet 256x512 H4": ("retnet", 4, 256, 512),
    "simple GLA 256x512 H4": ("simple_gla", 4, 256, 512),
    "GLA 256x512 H4": ("gla", 4, 256, 512),
    "DeltaNet 256x512 H4": ("delta", 4, 256, 512),
    "delta RetNet 256x512 H4": (None, 4, 256, 512),  # the delta rule and a decay per head: fla has no such op
    "GDN 256x512 H4": ("gdn", 4, 256, 512),
    "KDA 256x512 H4": ("kda", 4, 256, 512),
    "DeltaNet 128x128 H16": ("delta", 16, 128, 128),
    "GDN 128x128 H16": ("gdn", 16, 128, 128),
    "KDA 128x128 H16": ("kda", 16, 128, 128),
}
COUNTS = (1, 8, 64, 256, 1024)
LAYERS = 8  # as in recurrence_bench


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
    per_head = g.flatten()[:heads].contiguous()
    return {
        "kda": lambda: fused_recurrent_kda(q, k, v, g, beta, **options),
        "gdn": lambda: fused_recurrent_gated_delta_rule(q, k, v, g, beta=beta, **options),
        "gla": lambda: fused_recurrent_gla(q, k, v, gk=g, **options),
        "delta": lambda: fused_recurrent_delta_rule(q, k, v, beta, **options),
        "linear": lambda: fused_recurrent_linear_attn(q, k, v, **options),
        "retnet": lambda: fused_recurrent_simple_gla(q, k, v, g_gamma=per_head, **options),
        "simple_gla": lambda: fused_recurrent_simple_gla(q, k, v, g, **options),
    }[op]


def calls_of(count):
    """Of a graph."""
    return 5 * LAYERS if count <= 64 else LAYERS


def chain(op, heads, key_dim, value_dim, count):
    """A call whose n-th is the step of layer n % LAYERS. Each layer's new states stay until that layer's next call, so
    that no two layers write to the same memory."""
    layers = [step_call(op, heads, key_dim, value_dim, count) for _ in range(LAYERS)]
    results = [None] * LAYERS
    turn = itertools.cycle(range(LAYERS))

    def call():
        layer = next(turn)
        results[layer] = layers[layer]()

    return call


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
        for shape in [shape for shape in SHAPES.values() if shape[0]][index::count]:
            measured(step_call(*shape, 64), 1)
        return
    only = sys.argv[2] if len(sys.argv) > 2 else ""
    counts = [int(count) for count in sys.argv[3].split(",")] if len(sys.argv) > 3 else COUNTS
    command = [sys.argv[1], "step", "f32", "copied", "sequences=" + ",".join(map(str, counts)), "only=" + only]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    pattern = r"^(step|chained step|copied|chained copy) +(.*?)\s+N\s+(\d+) state f32\s+([\d.]+) ms"
    ours = {(kind, name, int(count)): float(ms) for kind, name, count, ms in re.findall(pattern, output, re.MULTILINE)}
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    print(f"{'TB/s of f32 state':30}{'one call repeated':>30}{f'calls of {LAYERS} layers':>30}")
    print(" " * 30 + f"{'copied':>8}{'ours':>6}{'fla':>6}{'ours/fla':>10}" * 2)
    for name, shape in SHAPES.items():
        if only not in name:
            continue
        if shape[0] is None:
            print(f"{name}: fla has no kernel for such steps")
        for count in counts:
            _, heads, key_dim, value_dim = shape
            terabytes = count * heads * key_dim * value_dim * 8e-9
            row = f"{name + ' N=' + str(count):30}"
            for kind, copy, call in (("step", "copied", step_call), ("chained step", "chained copy", chain)):
                fla = measured(call(*shape, count), calls_of(count)) if shape[0] else math.nan
                ms, copied = ours[kind, name, count], ours.get((copy, name, count), math.nan)
                row += f"{terabytes / copied:8.2f}{terabytes / ms:6.2f}{terabytes / fla:6.2f}{fla / ms:10.2f}"
            print(row, flush=True)


if __name__ == "__main__":
    main()
