#!/usr/bin/env python3
"""Edifice's models in the server's code against the float64 reference, position by position.

  edifice_parity.py --tool LOGITS_TOOL [--cases N] [--seed S] [--device cpu|cuda] [--dtype f32|bf16]

Each case is a random model: the kinds (feature map and normalisation, or lightning) in turn, head size and chunk size
drawn so that every value comes up. Its sequences have 1, C - 1, C, C + 1 and 10 C + 3 tokens and go through the tool by
one packed prefill, by steps and by ragged pieces. Exit code 1 where a sequence is out of bounds.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import numpy as np

import edifice_reference as edifice

KINDS = [dict(model_type="flash_linear_attention", feature_map=feature_map, normalization=normalization)
         for normalization in ("split", "sum", "none") for feature_map in ("elu", "relu", "identity")]
KINDS.append(dict(model_type="lightning_attention"))
HEAD_SIZES = [16, 32, 48, 64, 96, 128]
CHUNK_SIZES = [8, 16, 24, 32, 64, 128]
WAYS = ["prefill", "steps", "pieces"]


def configurations(count, generator):
    """Every kind, head size and chunk size as often as the others, in an order of the generator's."""
    def in_turn(values):
        while True:
            yield from generator.sample(values, len(values))
    head_sizes, chunk_sizes = in_turn(HEAD_SIZES), in_turn(CHUNK_SIZES)
    for case in range(count):
        head = next(head_sizes)
        heads = generator.choice([1, 2]) if head > 32 else generator.choice([1, 2, 3])
        hidden = head * heads
        yield dict(KINDS[case % len(KINDS)], chunk_size=next(chunk_sizes), hidden_size=hidden, num_heads=heads,
                   num_layers=generator.choice([1, 2]), embed_dim=generator.choice([hidden, 24]),
                   vocab_size=generator.choice([8, 17]))


def run_tool(arguments, folder, sequences, seed):
    stdin = b"".join(np.int32(len(ids)).tobytes() + ids.astype(np.int32).tobytes() for ids in sequences)
    command = [arguments.tool, str(folder), arguments.device, arguments.dtype, str(seed)]
    result = subprocess.run(command, input=stdin, capture_output=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}: {result.stderr.decode()}")
    return np.frombuffer(result.stdout, np.float32)


def check_case(arguments, config, seed):
    """Returns the largest relative error (Frobenius) of any sequence by any way, and which."""
    weights = edifice.random_weights(config, seed)
    chunk, vocab = config["chunk_size"], config["vocab_size"]
    numbers = np.random.default_rng(seed)
    sequences = [numbers.integers(0, vocab, length) for length in (1, chunk - 1, chunk, chunk + 1, 10 * chunk + 3)]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "config.json").write_text(json.dumps(config))
        edifice.write_safetensors(folder / "model.safetensors", weights)
        actual = run_tool(arguments, folder, sequences, seed)
    actual = actual.reshape(len(WAYS), sum(map(len, sequences)), vocab)
    worst, at = 0.0, 0
    for ids in sequences:
        wanted = edifice.logits(config, weights, ids)
        for way, rows in zip(WAYS, actual[:, at:at + len(ids)]):
            error = np.linalg.norm(rows - wanted) / np.linalg.norm(wanted)
            if not error <= worst:  # NaN is the worst
                worst, where = error, f"{way}, {len(ids)} tokens"
        at += len(ids)
    return worst, where


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", required=True)
    parser.add_argument("--cases", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="f32", choices=["f32", "bf16"])
    arguments = parser.parse_args()
    bound = 2e-2 if arguments.dtype == "bf16" else 1e-5 if arguments.device == "cpu" else 1e-4
    failures = 0
    for case, config in enumerate(configurations(arguments.cases, random.Random(arguments.seed))):
        error, where = check_case(arguments, config, arguments.seed * 1000 + case)
        failures += not error <= bound
        print(f"{'ok    ' if error <= bound else 'FAILED'} {error:.1e} ({where})", json.dumps(config), flush=True)
    if failures:
        sys.exit(f"{failures} of {arguments.cases} cases are over {bound}")


if __name__ == "__main__":
    main()
