#!/usr/bin/env python3
"""Writes the golden checkpoints of Edifice's models: random weights in Edifice's names and layout, with the logits and
greedy tokens that the float64 reference (tests/model/edifice_reference.py) gives for them. Needs NumPy alone; seconds.

  make_edifice_golden.py --out DIR

Each DIR/NAME holds config.json, model.safetensors (f16, to be small), and expected.safetensors:
  input_ids [2,70] i64   random token ids
  logits    [2,70,V] f32 one row for each input token
  greedy    [2,24] i64   greedy continuation of both rows
"""
import argparse
import json
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "model"))
import edifice_reference as edifice  # noqa: E402

LENGTH, GREEDY = 70, 24
CASES = {
    "flash_linear_attention": dict(
        model_type="flash_linear_attention", embed_dim=24, hidden_size=32, num_heads=2, num_layers=2, chunk_size=16,
        feature_map="elu", normalization="split", output="last", vocab_size=128),
    "lightning_attention": dict(
        model_type="lightning_attention", embed_dim=32, hidden_size=32, num_heads=2, num_layers=2, chunk_size=16,
        output="mean", vocab_size=64),
}


def ascii_tokenizer():
    """Token i is ASCII character i: a tokenizer.json in the byte-level form."""
    letters, spare = {}, 256
    for byte in range(256):
        printable = 33 <= byte <= 126 or (byte >= 161 and byte != 173)
        letters[byte] = chr(byte if printable else spare)
        spare += not printable
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "vocab": {letters[byte]: byte for byte in range(128)}, "merges": []},
    }


def write_case(folder, config, seed):
    folder.mkdir(parents=True, exist_ok=True)
    weights = edifice.random_weights(config, seed)
    weights = {name: value.astype(np.float16).astype(np.float64) for name, value in weights.items()}
    edifice.write_safetensors(folder / "model.safetensors", weights, np.float16)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if config["vocab_size"] == 128:
        (folder / "tokenizer.json").write_text(json.dumps(ascii_tokenizer(), separators=(",", ":")) + "\n")
    ids = np.random.default_rng(11).integers(0, config["vocab_size"], (2, LENGTH))
    logits, greedy = [], []
    for row in ids:
        tokens = list(row)
        for _ in range(GREEDY):
            tokens.append(int(edifice.logits(config, weights, tokens)[-1].argmax()))
        logits.append(edifice.logits(config, weights, row))
        greedy.append(tokens[LENGTH:])
    edifice.write_safetensors(folder / "expected.safetensors",
                              {"input_ids": ids, "logits": np.array(logits), "greedy": np.array(greedy)})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    arguments = parser.parse_args()
    for seed, (name, config) in enumerate(CASES.items()):
        write_case(arguments.out / name, config, seed)
        print(name)


if __name__ == "__main__":
    main()
