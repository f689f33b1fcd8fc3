"""Small checkpoints with tokenizers, to be served, swapped and broken."""
import json
import os
import pathlib
import shutil

import numpy as np
from safetensors.numpy import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]


def byte_tokenizer():
    """Token i is byte i."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    vocab = {chr(b if b in printable else next(others)): b for b in range(256)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": True}
    return {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": level,
            "post_processor": None, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None,
                      "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": []}}


def message(*fields):
    """A protobuf message of pairs of a number and what that field is: bytes, or a small integer."""
    out = b""
    for number, content in fields:
        if isinstance(content, int):
            out += varint(number << 3) + varint(content)
        else:
            out += varint(number << 3 | 2) + varint(len(content)) + content
    return out


def varint(value):
    return bytes([value & 0x7F | 0x80]) + varint(value >> 7) if value > 0x7F else bytes([value])


UNKNOWN_PIECE = (1, message((1, b"<unk>"), (3, 2)))


def byte_sentencepiece():
    """A tokenizer.model: token i + 1 is byte i, 257 a space, and nothing is put before a text."""
    pieces = [(1, message((1, b"<0x%02X>" % i), (3, 6))) for i in range(256)]
    pieces.append((1, message((1, "\u2581".encode()))))
    trainer = message((3, 2), (35, 1))  # BPE, byte_fallback
    normalizer = message((3, 0), (4, 0))  # no space before the text, none taken away
    return message(UNKNOWN_PIECE, *pieces, (2, trainer), (3, normalizer))


def copy_golden(name, target):
    """A checkpoint of tests/golden as a folder that can be served."""
    target.mkdir(parents=True)
    for file in ("config.json", "model.safetensors"):
        shutil.copy(ROOT / "tests/golden" / name / file, target)
    (target / "tokenizer.json").write_text(json.dumps(byte_tokenizer()))
    return target


def copy_golden_enlarged(name, target, vocabulary):
    """The same with a larger vocabulary, of zeros: takes a while to load."""
    copy_golden(name, target)
    config = json.loads((target / "config.json").read_text())
    tensors = load_file(target / "model.safetensors")
    for matrix in ("model.embeddings.weight", "lm_head.weight"):
        tensors[matrix] = np.zeros((vocabulary, config["hidden_size"]), np.float32)
    save_file(tensors, target / "model.safetensors")
    (target / "config.json").write_text(json.dumps({**config, "vocab_size": vocabulary}))
    return target


def copy_demo(target):
    shutil.copytree(ROOT / "demo/model", target)
    return target


def replace(file, text):
    """As editors and `mv` do: the file is the old one or the new one, never a part."""
    temporary = file.with_name(file.name + ".new")
    temporary.write_text(text)
    os.replace(temporary, file)
