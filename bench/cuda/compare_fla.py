#!/usr/bin/env python3
"""Times flash-linear-attention's Triton kernels on the shapes of recurrence_bench and puts both side by side.

  compare_fla.py RECURRENCE_BENCH [prefill] [step]
  compare_fla.py --warm I/N     only compiles shapes I, I + N, ... of fla, for N processes side by side to fill
                                Triton's cache before a run

Needs a GPU, torch and flash-linear-attention 0.5.2 or later. Both sides are medians of CUDA graph replays in this run.
"""
import re
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
import triton

import tune_fewer  # noqa: F401  before fla is imported

from fla.ops.delta_rule import chunk_delta_rule
from fla.ops.gated_delta_rule import chunk_gated_delta_rule, fused_recurrent_gated_delta_rule
from fla.ops.gla import chunk_gla, fused_recurrent_gla
from fla.ops.kda import chunk_kda, fused_recurrent_kda
from fla.ops.linear_attn import chunk_linear_attn
from fla.ops.retention import chunk_retention
from fla.ops.simple_gla import chunk_simple_gla

RAGGED = [40, 1900, 300, 77, 2600, 512, 1024, 128, 3000, 900, 650, 211, 33, 1500, 460, 800, 700, 99, 1000, 450]

# Name in recurrence_bench: op, query and key heads, heads, K, V, lengths.
PREFILL = {
    "KDA H96 1x8192": ("kda", 96, 96, 128, 128, [8192]),
    "KDA H64 1x8192": ("kda", 64, 64, 128, 128, [8192]),
    "KDA H64 20 ragged 16384": ("kda", 64, 64, 128, 128, RAGGED),
    "KDA H4 1x65536": ("kda", 4, 4, 128, 128, [65536]),
    "KDA H8 1x65536": ("kda", 8, 8, 128, 128, [65536]),
    "GDN 16/32 1x8192": ("gdn", 16, 32, 128, 128, [8192]),
    "GDN 16/64 1x8192": ("gdn", 16, 64, 128, 128, [8192]),
    "GDN 16/64 4x8192": ("gdn", 16, 64, 128, 128, [8192] * 4),
    "DeltaNet H64 1x8192": ("delta", 64, 64, 128, 128, [8192]),
    "GLA H64 1x8192": ("gla", 64, 64, 128, 128, [8192]),
    "simple GLA H64 1x8192": ("simple_gla", 64, 64, 128, 128, [8192]),
    "RetNet H64 1x8192": ("retention", 64, 64, 128, 128, [8192]),
    "linear attention H64 1x8192": ("linear", 64, 64, 128, 128, [8192]),
    "GLA 8x2048 H4 256x512": ("gla", 4, 4, 256, 512, [2048] * 8),
    "simple GLA 8x2048 H4 256x512": ("simple_gla", 4, 4, 256, 512, [2048] * 8),
    "GDN 8x2048 H6 256x512": ("gdn", 6, 6, 256, 512, [2048] * 8),
    "GDN H6 256x512 1x2048": ("gdn", 6, 6, 256, 512, [2048]),
    "GLA H4 256x512 1x2048": ("gla", 4, 4, 256, 512, [2048]),
    "GDN H16 128x128 1x16384": ("gdn", 16, 16, 128, 128, [16384]),
}
STEP = {
    "GLA 256x512 H4": ("gla", 4, 256, 512),
    "GDN 256x512 H4": ("gdn", 4, 256, 512),
    "KDA 256x512 H4": ("kda", 4, 256, 512),
    "GDN 128x128 H16": ("gdn", 16, 128, 128),
}


def median_ms(call, calls):
    for _ in range(2):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    times = []
    end_of_warm_up = time.perf_counter() + 0.01  # an idle GPU's clocks take some milliseconds to rise
    while time.perf_counter() < end_of_warm_up:
        graph.replay()
        torch.cuda.synchronize()
    for i in range(9):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if i >= 2:
            times.append(begin.elapsed_time(end) / calls)
    return statistics.median(times)


def inputs(op, qk_heads, heads, key_dim, value_dim, batch, length):
    """q, k, v and the op's gates, [B, T, H, ...]."""
    bf16 = dict(dtype=torch.bfloat16, device="cuda")
    q = torch.randn(batch, length, qk_heads, key_dim, **bf16)
    k = F.normalize(torch.randn(batch, length, qk_heads, key_dim, device="cuda"), dim=-1).to(torch.bfloat16)
    v = torch.randn(batch, length, heads, value_dim, **bf16)
    gate_shape = (batch, length, heads) + ((key_dim,) if op in ("kda", "gla") else ())
    g = -0.1 * torch.rand(gate_shape, device="cuda")
    beta = torch.rand(batch, length, heads, device="cuda").to(torch.bfloat16)
    return q, k, v, g, beta


def prefill_call(op, qk_heads, heads, key_dim, value_dim, lengths):
    equal = len(set(lengths)) == 1
    batch, length = (len(lengths), lengths[0]) if equal else (1, sum(lengths))
    q, k, v, g, beta = inputs(op, qk_heads, heads, key_dim, value_dim, batch, length)
    options = dict(output_final_state=True,
                   initial_state=torch.zeros(len(lengths), heads, key_dim, value_dim, device="cuda"))
    if not equal:
        options["cu_seqlens"] = torch.tensor([0] + lengths, device="cuda").cumsum(0)
    return {
        "kda": lambda: chunk_kda(q, k, v, g, beta, **options),
        "gdn": lambda: chunk_gated_delta_rule(q, k, v, g, beta, **options),
        "delta": lambda: chunk_delta_rule(q, k, v, beta, **options),
        "gla": lambda: chunk_gla(q, k, v, g, **options),
        "simple_gla": lambda: chunk_simple_gla(q, k, v, g, **options),
        "retention": lambda: chunk_retention(q, k, v, **options),
        "linear": lambda: chunk_linear_attn(q, k, v, normalize=False, **options),
    }[op]


def step_call(op, heads, key_dim, value_dim, count):
    q, k, v, g, beta = inputs(op, heads, heads, key_dim, value_dim, count, 1)
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
        print(f"  fla: {type(error).__name__}: {str(error)[:200]}")
        torch.cuda.synchronize()
        return float("nan")


def warm(index, count):
    calls = [lambda shape=shape: prefill_call(*shape) for shape in PREFILL.values()]
    calls += [lambda shape=shape: step_call(*shape, 64) for shape in STEP.values()]
    for make in calls[index::count]:
        measured(make(), 1)


def main():
    if sys.argv[1] == "--warm":
        return warm(*map(int, sys.argv[2].split("/")))
    binary, words = sys.argv[1], sys.argv[2:] or ["prefill", "step"]
    ours = {}
    for line in subprocess.run([binary, *words], check=True, capture_output=True, text=True).stdout.splitlines():
        if match := re.match(r"prefill (.*?)\s+([\d.]+) ms", line):
            ours[match[1]] = float(match[2])
        elif match := re.match(r"step (.*?)\s+N\s+(\d+) state f32\s+([\d.]+) ms", line):
            ours[match[1], int(match[2])] = float(match[3])
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    if "prefill" in words:
        print(f"{'prefill, ms':34}{'ours':>9}{'fla':>9}{'fla/ours':>9}")
        for name, shape in PREFILL.items():
            fla = measured(prefill_call(*shape), 4)
            print(f"{name:34}{ours[name]:9.4f}{fla:9.4f}{fla / ours[name]:9.2f}", flush=True)
    if "step" in words:
        print(f"{'step, TB/s of f32 state':34}{'ours':>9}{'fla':>9}{'ours/fla':>9}")
        for name, (op, heads, key_dim, value_dim) in STEP.items():
            for count in (1, 8, 64, 256, 1024):
                fla = measured(step_call(op, heads, key_dim, value_dim, count), 40)
                terabytes = count * heads * key_dim * value_dim * 8e-9
                ms = ours[name, count]
                print(f"{name + ' N=' + str(count):34}{terabytes / ms:9.2f}{terabytes / fla:9.2f}{fla / ms:9.2f}",
                      flush=True)


if __name__ == "__main__":
    main()
