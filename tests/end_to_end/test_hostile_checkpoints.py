"""Checkpoints that somebody made to break the server: each is refused in bounded time and memory,
with what is wrong with it, and the server goes on."""
import json
import os
import resource
import struct
import subprocess

import grpc
import pytest

from checkpoints import ROOT, UNKNOWN_PIECE, copy_golden, message
from fla.v1 import control_pb2 as control
from server_process import SERVER
from swapping import PROMPTS, answers, model

MEBIBYTE = 1 << 20
MOST_SECONDS = 20  # of a processor, for one refusal
MOST_MEMORY = 700 * MEBIBYTE


def safetensors(folder, header, payload=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(
        struct.pack("<Q", len(text) if size is None else size) + text + payload)


def tensor(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def header_over_the_limit(folder):
    safetensors(folder, b"{}", size=100_000_001)
    os.truncate(folder / "model.safetensors", 8 + 100_000_001)


def header_beyond_the_file(folder):
    safetensors(folder, b"{}", size=1 << 63)


def header_of_brackets(folder):
    safetensors(folder, b"[" * (16 * MEBIBYTE))


def header_of_names(folder):
    entry = b'"%d":{"dtype":"F32","shape":[],"data_offsets":[0,4]},'
    safetensors(folder, b"{" + b"".join(entry % i for i in range(100_000)) + b'"z":0}')


def overlapping_offsets(folder):
    safetensors(folder, {"a": tensor([1], 0, 4), "b": tensor([1], 2, 6)}, bytes(6))


def gapped_offsets(folder):
    safetensors(folder, {"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, bytes(12))


def shape_overflow(folder):
    safetensors(folder, {"a": tensor([1 << 62, 4], 0, 8)}, bytes(8))


def duplicate_keys(folder):
    entry = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    safetensors(folder, b"{" + entry + b"," + entry + b"}", bytes(4))


def truncated_file(folder):
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size - 1)


def wrong_dtype(folder):
    safetensors(folder, {"a": tensor([1], 0, 8, "I64")}, bytes(8))


def pipe(folder):
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def index_with(name):
    def write(folder):
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"model.norm.weight": name}}))
    return write


def nested_index(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map":' * 500_000)


def linked_weights(folder):
    outside = folder.parents[1] / "outside.safetensors"
    (folder / "model.safetensors").rename(outside)
    (folder / "model.safetensors").symlink_to(outside)


def nested_config(folder):
    (folder / "config.json").write_text("[" * 2_000_000)


def large_config(folder):
    (folder / "config.json").write_text(" " * (8 * MEBIBYTE))


def endless_model(folder):
    edit_config(folder, vocab_size=1 << 24, hidden_size=1 << 24, num_hidden_layers=1 << 24)


def edit_config(folder, **change):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))


def edit_tokenizer(folder, **change):
    text = json.loads((folder / "tokenizer.json").read_text())
    text["model"].update(change)
    (folder / "tokenizer.json").write_text(json.dumps(text))


def nested_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"model":' * 1_000_000)


def vocabulary_with_a_giant_id(folder):
    edit_tokenizer(folder, vocab={"a": (1 << 31) - 1})


def vocabulary_of_millions(folder):
    os.truncate(folder / "tokenizer.json", 65 * MEBIBYTE)


def merges_of_unknown_tokens(folder):
    edit_tokenizer(folder, merges=["a nobody"])


def sentencepiece_model(folder, *fields):
    """A tokenizer.model of some fields in place of tokenizer.json."""
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(message(*fields))


def pieces_without_unknown(folder):
    sentencepiece_model(folder, (1, message((1, b"a"))))


def character_map_that_leads_outside(folder):
    charsmap = struct.pack("<III", 8, 0x3FFFFF << 10, 0) + b"\0"
    sentencepiece_model(folder, UNKNOWN_PIECE, (3, message((2, charsmap))))


def long_piece_twice(folder):
    sentencepiece_model(folder, UNKNOWN_PIECE, *[(1, message((1, b"a" * 4096)))] * 2)


def pieces_beyond_the_limit_of_the_file(folder):
    sentencepiece_model(folder)
    os.truncate(folder / "tokenizer.model", 9 * MEBIBYTE)


HOSTILE = {
    header_over_the_limit: "header: wanted at most 100000000 bytes",
    header_beyond_the_file: "header: wanted at most",
    header_of_brackets: "wanted a JSON object",
    header_of_names: "tensor z",
    overlapping_offsets: "overlap",
    gapped_offsets: "gap",
    shape_overflow: "does not fit",
    duplicate_keys: "stands twice",
    truncated_file: "truncated",
    wrong_dtype: "I64",
    pipe: "regular file",
    index_with("../a/model.safetensors"): "in this folder",
    index_with("/etc/passwd"): "in this folder",
    index_with(".."): "in this folder",
    index_with("nothing.safetensors"): "nothing.safetensors",
    nested_index: "nested deeper",
    linked_weights: "within model_root",
    nested_config: "nested deeper",
    large_config: "config.json: wanted at most",
    endless_model: "config.json",
    nested_tokenizer: "nesting",
    vocabulary_with_a_giant_id: "16777215",
    vocabulary_of_millions: "tokenizer.json: size: wanted at most",
    merges_of_unknown_tokens: "nobody",
    pieces_without_unknown: "tokenizer.model: sentencepiece: Internal: unk is not defined",
    character_map_that_leads_outside: "tokenizer.model: precompiled_charsmap: wanted a trie",
    long_piece_twice: "sentencepiece: Internal: aaaa",
    pieces_beyond_the_limit_of_the_file: "tokenizer.model: size: wanted at most",
}


def processor_seconds(process):
    fields = open(f"/proc/{process.pid}/stat").read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_memory(process):
    for line in open(f"/proc/{process.pid}/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024


def test_hostile_checkpoints_are_refused_and_the_server_goes_on(start_server, tmp_path):
    root = tmp_path / "models"
    good = copy_golden("gla", root / "good")
    names = [f"m{i}" for i in range(len(HOSTILE))]
    folders = [copy_golden("gla", root / name) for name in names]
    server = start_server(
        models=[model("good", good)] + [model(n, f, load="on_demand") for n, f in zip(names, folders)],
        default_model="good", model_root=str(root))
    expected = answers(server)
    for name, folder, (spoil, wanted) in zip(names, folders, HOSTILE.items()):
        spoil(folder)
        begin = processor_seconds(server.process)
        with pytest.raises(grpc.RpcError) as caught:
            server.control.LoadModel(control.LoadModelRequest(name=name), timeout=300)
        seconds = processor_seconds(server.process) - begin
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION, spoil
        assert wanted in caught.value.details(), spoil
        assert len(caught.value.details()) < 2000, spoil
        assert seconds < MOST_SECONDS, spoil
        assert peak_memory(server.process) < MOST_MEMORY, spoil
    assert answers(server) == expected


def validate(folder, *more):
    return subprocess.run(
        [SERVER, "--validate", folder, *more], capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS)))


def test_validate_says_what_is_wrong(tmp_path):
    good = copy_golden("gla", tmp_path / "good")
    run = validate(good)
    assert run.returncode == 0 and "can be served" in run.stdout and "heads of" in run.stdout
    run = validate(good, "--json")
    report = json.loads(run.stdout)
    assert run.returncode == 0 and report["servable"] and report["problems"] == []
    assert report["model"]["model_type"] == "gla" and report["parameters"] > 0
    assert report["stored"]["F32"]["elements"] == report["parameters"]
    for i, (spoil, wanted) in enumerate(HOSTILE.items()):
        if spoil is linked_weights:  # there is no root here
            continue
        folder = copy_golden("gla", tmp_path / "models" / str(i))
        spoil(folder)
        run = validate(folder)
        assert run.returncode == 1 and run.stderr == "", spoil
        assert "CANNOT be served" in run.stdout and wanted in run.stdout, spoil
    demo = validate(ROOT / "demo/model").stdout.splitlines()
    for line in ["  tokenizer    byte-level BPE of tokenizer.json, 4096 tokens; adds 0 before a text",
                 "  bos          0 (config.json, tokenizer_config.json)",
                 "  eos          0 (config.json, generation_config.json, tokenizer_config.json)",
                 "  chat         no template",
                 "  sampling     temperature 0.8, top_p 0.95, of generation_config.json"]:
        assert line in demo
    demo = json.loads(validate(ROOT / "demo/model", "--json").stdout)
    assert demo["sampling"] == {"temperature": 0.8, "top_p": 0.95}
    assert demo["tokenizer"] == {"file": "tokenizer.json", "kind": "byte-level BPE",
                                 "vocab_size": 4096, "adds_before": [0], "adds_after": []}
    assert demo["bos"] == [{"id": 0, "files": ["config.json", "tokenizer_config.json"]}]
    run = validate(tmp_path / "nowhere")
    assert run.returncode == 1 and run.stdout.count("PROBLEM") == 3
