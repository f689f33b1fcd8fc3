#!/usr/bin/env python3
"""Writes a checkpoint with random weights, of the shapes that published models have, for timing.

  make_checkpoint.py MODEL FOLDER [--layers N] [--hidden D] [--seed S]

MODEL is a key of MODELS below. The folder gets what fla-server and transformers read: config.json,
model.safetensors (bf16) and a byte-level tokenizer.json whose further entries stand for words. Weights
are scaled so that activations stay of order one: greedy text is nonsense, but finite. Needs numpy.
"""
import argparse
import concurrent.futures
import json
import math
import os
import pathlib
import struct

import numpy as np

SWISH = {"hidden_act": "swish", "norm_eps": 1e-6, "tie_word_embeddings": False}
MODELS = {
    "gated_deltanet-1.3B": {
        "model_type": "gated_deltanet", "architectures": ["GatedDeltaNetForCausalLM"],
        "num_hidden_layers": 21, "hidden_size": 2048, "num_heads": 6, "head_dim": 256, "expand_v": 2.0,
        "hidden_ratio": 4, "vocab_size": 32000},
    "gla-1.3B": {
        "model_type": "gla", "architectures": ["GLAForCausalLM"],
        "num_hidden_layers": 24, "hidden_size": 2048, "num_heads": 4, "expand_k": 0.5, "expand_v": 1.0,
        "hidden_ratio": 4, "vocab_size": 32000},
    "kda-1.3B": {
        "model_type": "kda", "architectures": ["KDAForCausalLM"],
        "num_hidden_layers": 24, "hidden_size": 2048, "num_heads": 16, "head_dim": 128, "expand_v": 1.0,
        "hidden_ratio": 4, "vocab_size": 32000},
    "retnet-1.3B": {
        "model_type": "retnet", "architectures": ["RetNetForCausalLM"],
        "num_hidden_layers": 24, "hidden_size": 2048, "num_heads": 8, "expand_k": 1.0, "expand_v": 2.0,
        "hidden_ratio": 2, "vocab_size": 32000},
    "delta_net-1.3B": {
        "model_type": "delta_net", "architectures": ["DeltaNetForCausalLM"],
        "num_hidden_layers": 24, "hidden_size": 2048, "num_heads": 16, "expand_k": 1.0, "expand_v": 1.0,
        "hidden_ratio": 4, "vocab_size": 32000},
    "linear_attn-1.3B": {
        "model_type": "linear_attn", "architectures": ["LinearAttentionForCausalLM"],
        "num_hidden_layers": 24, "hidden_size": 2048, "num_heads": 4, "expand_k": 1.0, "expand_v": 1.0,
        "feature_map": "elu", "hidden_ratio": 4, "vocab_size": 32000},
}  # fmt: skip

CONV_SIZE = 4
GLA_LOW_RANK = 16


def normal(deviation):
    return lambda rng, shape: rng.standard_normal(shape, dtype=np.float32) * np.float32(deviation)


def uniform(low, high):
    return lambda rng, shape: rng.uniform(low, high, shape).astype(np.float32)


def ones(_, shape):
    return np.ones(shape, np.float32)


def log_rates(rng, shape):  # A_log of Mamba-2 and its followers
    return np.log(rng.uniform(1.0, 16.0, shape)).astype(np.float32)


def time_step_biases(rng, shape):  # softplus(bias) is between 1e-3 and 1e-1, evenly in its logarithm
    step = np.exp(rng.uniform(math.log(1e-3), math.log(1e-1), shape))
    return (step + np.log(-np.expm1(-step))).astype(np.float32)


def projection(inputs):  # keeps the variance of what it maps
    return normal(inputs**-0.5)


def mixer_tensors(config):
    """(name, shape, values) of one layer's mixer, names as under `attn.`"""
    hidden, heads, model = config["hidden_size"], config["num_heads"], config["model_type"]
    if "head_dim" in config:
        key, value = heads * config["head_dim"], int(heads * config["head_dim"] * config["expand_v"])
    else:
        key, value = int(hidden * config["expand_k"]), int(hidden * config["expand_v"])
    head_value = value // heads

    def linear(name, outputs, inputs):
        return (name + ".weight", (outputs, inputs), projection(inputs))

    yield linear("q_proj", key, hidden)
    yield linear("k_proj", key, hidden)
    yield linear("v_proj", value, hidden)
    yield linear("o_proj", hidden, value)
    if model in ("delta_net", "gated_deltanet", "kda"):
        for name, channels in (("q_conv1d", key), ("k_conv1d", key), ("v_conv1d", value)):
            yield (name + ".weight", (channels, 1, CONV_SIZE), uniform(-CONV_SIZE**-0.5, CONV_SIZE**-0.5))
        yield linear("b_proj", heads, hidden)
        yield ("o_norm.weight", (head_value,), ones)
    if model in ("retnet", "gla", "gated_deltanet"):
        yield linear("g_proj", value, hidden)
    if model in ("retnet", "gla"):
        yield ("g_norm_swish_gate.weight", (head_value,), ones)
    if model == "gla":
        yield linear("gk_proj.0", GLA_LOW_RANK, hidden)
        yield linear("gk_proj.1", key, GLA_LOW_RANK)
        yield ("gk_proj.1.bias", (key,), uniform(0.0, 4.0))
    if model == "gated_deltanet":
        yield linear("a_proj", heads, hidden)
        yield ("A_log", (heads,), log_rates)
        yield ("dt_bias", (heads,), time_step_biases)
    if model == "kda":
        yield linear("f_proj.0", head_value, hidden)
        yield linear("f_proj.1", key, head_value)
        yield linear("g_proj.0", head_value, hidden)
        yield linear("g_proj.1", value, head_value)
        yield ("g_proj.1.bias", (value,), normal(0.02))
        yield ("A_log", (heads,), log_rates)
        yield ("dt_bias", (key,), time_step_biases)
    if model == "linear_attn":
        yield ("norm.weight", (head_value,), ones)


def intermediate_size(config):
    return 256 * math.ceil(int(config["hidden_size"] * config["hidden_ratio"] * 2 / 3) / 256)


def tensors(config):
    hidden, inner, layers = config["hidden_size"], intermediate_size(config), config["num_hidden_layers"]
    residual = normal((2 * layers * inner) ** -0.5)  # what is added to the residual stream stays small
    yield ("model.embeddings.weight", (config["vocab_size"], hidden), normal(1.0))
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        yield (prefix + "attn_norm.weight", (hidden,), ones)
        yield (prefix + "mlp_norm.weight", (hidden,), ones)
        for name, shape, values in mixer_tensors(config):
            yield (prefix + "attn." + name, shape, values)
        yield (prefix + "mlp.gate_proj.weight", (inner, hidden), projection(hidden))
        yield (prefix + "mlp.up_proj.weight", (inner, hidden), projection(hidden))
        yield (prefix + "mlp.down_proj.weight", (hidden, inner), residual)
    yield ("model.norm.weight", (hidden,), ones)
    yield ("lm_head.weight", (config["vocab_size"], hidden), projection(hidden))


def to_bf16(values):
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def write_tensors(config, path, seed):
    listed = list(tensors(config))
    header, offset = {}, 0
    for name, shape, _ in listed:
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    begin = 8 + len(text)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(begin + offset)
        descriptor = file.fileno()

        def write(item):
            number, (name, shape, values) = item
            rng = np.random.Generator(np.random.SFC64([seed, number]))
            os.pwrite(descriptor, to_bf16(values(rng, shape)).tobytes(), begin + header[name]["data_offsets"][0])

        with concurrent.futures.ThreadPoolExecutor() as pool:  # numpy lets go of the interpreter
            list(pool.map(write, enumerate(listed)))
    return offset


def byte_characters():
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in printable)
    return [chr(byte) for byte in printable] + [chr(256 + i) for i, _ in enumerate(others)]


def tokenizer(vocab_size):
    entries = byte_characters()
    entries += [f"\u0120w{i}" for i in range(vocab_size - len(entries))]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "vocab": {entry: i for i, entry in enumerate(entries)}, "merges": []},
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    config = {**SWISH, **MODELS[options.model]}
    if options.layers:
        config["num_hidden_layers"] = options.layers
    if options.hidden:
        config["hidden_size"] = options.hidden
    # No end of text: every request runs to its limit.
    config |= {"bos_token_id": None, "eos_token_id": None, "torch_dtype": "bfloat16"}
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (options.folder / "tokenizer.json").write_text(json.dumps(tokenizer(config["vocab_size"])))
    size = write_tensors(config, options.folder / "model.safetensors", options.seed)
    print(f"{options.folder}: {options.model}, {size / 2e6:.1f}M parameters")


if __name__ == "__main__":
    main()
