#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets, small inputs of every kind: make_seeds.py (in .venv).

Seeds named found_* are not made here: libFuzzer found them, and they reach code that these do not.
"""
import json
import pathlib
import struct
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
SEEDS = pathlib.Path(__file__).with_name("seeds")
sys.path.insert(0, str(ROOT / "tests/end_to_end"))


def write(target, name, data):
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def tokenizers():
    tiny = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
    cases = json.loads((ROOT / "tests/model/data/tokenizer_cases.json").read_text())["cases"]
    kinds = {"tokenizer.json": 0, "tokenizer.model": 1, "rwkv_vocab.txt": 2}
    for case in cases:
        name = "".join(c if c.isalnum() else "_" for c in case["name"])
        if "file" in case:
            kind = next(k for file, k in kinds.items() if case["file"].endswith(file.split(".")[-1]))
            data = bytes.fromhex(case["hex"])
        else:
            definition = case["tokenizer"]
            if definition["model"] == "demo":
                definition["model"] = tiny
            kind, data = 0, compact(definition)
        if len(data) < 8000:
            write("tokenizer", name, bytes([kind]) + data)

    from checkpoints import UNKNOWN_PIECE, message

    def piece(text, score, *kind):
        return 1, message((1, text.encode())) + b"\x15" + struct.pack("<f", score) + message(*kind)

    # A map of one rule, b to a: Darts has the root's children at 1, those of b at 1 ^ b ^ 0x80.
    units = [1 << 31] * 256
    units[0], units[1 ^ ord("b")], units[1 ^ ord("b") ^ 0x80] = (
        1 << 10, ord("b") | 1 << 8 | 0x80 << 10, 1 << 31 | 2)
    charsmap = struct.pack("<257I", 1024, *units) + b"z\0a\0"
    pieces = [piece(text, -i) for i, text in enumerate(["H", "e", "l", "o", "\u2581", "\u2581w", "ll"])]
    pieces += [piece("Hell", 0, (3, 4)), piece("lo", -1, (3, 5)), (1, message((1, b"<s>"), (3, 3)))]
    for model_type in range(1, 5):
        write("tokenizer", f"sentencepiece_type_{model_type}", b"\1" + message(
            UNKNOWN_PIECE, *pieces, (2, message((3, model_type), (24, model_type % 2))),
            (3, message((2, charsmap), (4, model_type // 3)))))


def chat_templates():
    cases = json.loads((ROOT / "tests/model/data/chat_cases.json").read_text())
    for i, case in enumerate(cases["snippets"]):
        write("chat_template", f"snippet_{i:03}", case["template"].encode())
    messages = compact(cases["chats"]["tool call"]["messages"])
    for name, source in cases["templates"].items():
        write("chat_template", name, source.encode() + b"\0" + messages)


def model_configs():
    for folder in sorted((ROOT / "tests/golden").iterdir()):
        if (folder / "config.json").exists():
            write("model_config", folder.name, compact(json.loads((folder / "config.json").read_text())))
    demo = ROOT / "demo/model"
    write("model_config", "demo", compact(json.loads((demo / "config.json").read_text())) + b"\0" +
          compact(json.loads((demo / "generation_config.json").read_text())))
    base = json.loads((demo / "config.json").read_text())
    for name, change in {
            "hybrid": {"attn": {"layers": [1]}}, "no_vocabulary": {"vocab_size": 0},
            "vast": {"vocab_size": 2**31 - 1, "hidden_size": 2**31 - 1, "num_heads": 2**30},
            "negative": {"num_hidden_layers": -1}, "unknown": {"model_type": "gpt2"},
            "eos_list": {"eos_token_id": [0, 5, 4095]}, "eos_out": {"eos_token_id": 4096},
            "wrong_types": {"hidden_size": "384", "tie_word_embeddings": 3}}.items():
        write("model_config", name, compact(base | change))
    write("model_config", "generation", compact(base) + b"\0" + compact(
        {"do_sample": False, "temperature": 0.7, "top_k": 50, "top_p": 0.9, "eos_token_id": [0]}))


def safetensors():
    def file(header, payload=b"", length=None):
        text = compact(header) if not isinstance(header, bytes) else header
        return struct.pack("<Q", len(text) if length is None else length) + text + payload

    def tensor(dtype, shape, begin, end):
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    two = {"__metadata__": {"format": "pt"}, "a": tensor("F32", [2, 3], 0, 24),
           "b": tensor("BF16", [4], 24, 32)}
    index = compact({"metadata": {"total_size": 32},
                     "weight_map": {"a": "a.safetensors", "b": "a.safetensors"}})
    single = {
        "two": file(two, bytes(32)), "empty": file({}), "half": file({"h": tensor("F16", [1], 0, 2)}, b"ab"),
        "no_elements": file({"z": tensor("F32", [0, 7], 0, 0)}),
        "scalar": file({"s": tensor("F32", [], 0, 4)}, bytes(4)),
        "gap": file({"a": tensor("F32", [1], 4, 8)}, bytes(8)),
        "overlap": file({"a": tensor("F32", [1], 0, 4), "b": tensor("F32", [1], 2, 6)}, bytes(6)),
        "beyond": file({"a": tensor("F32", [9], 0, 36)}, bytes(4)),
        "overflow": file({"a": tensor("F32", [2**62, 4], 0, 0)}),
        "negative": file({"a": tensor("F32", [-1, -4], 0, 16)}, bytes(16)),
        "integers": file({"a": tensor("I64", [1], 0, 8)}, bytes(8)),
        "long_header": file({}, length=2**63), "short": b"\1\2", "cut": file(two, bytes(32))[:40],
        "doubled": file(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
        "deep": file(b'{"a":' + b"[" * 500 + b"]" * 500 + b"}"),
    }
    for name, data in single.items():
        write("safetensors", name, b"\0" + data)
    write("safetensors", "index", b"\1" + index + b"\0" + file(two, bytes(32)))
    write("safetensors", "index_outside", b"\1" + index.replace(b"a.safe", b"../safe") + b"\0")
    write("safetensors", "index_missing", b"\1" + index + b"\0" + file({}))
    scaled = {"x.weight": tensor("F8_E4M3", [3, 4], 0, 12), "x.weight_scale_inv": tensor("F32", [2, 2], 12, 28),
              "x.input_scale": tensor("F32", [], 28, 32), "model.embed_tokens.weight": tensor("F16", [2], 32, 36),
              "model.layers.0.mlp.gate_proj.weight": tensor("BF16", [2, 1], 36, 40),
              "model.layers.0.attn.norm.weight": tensor("F32", [1], 40, 44)}
    write("safetensors", "old_and_scaled", b"\0" + file(scaled, bytes(range(44))))
    write("safetensors", "old_and_scaled_odd", b"\0" + file(compact(scaled) + b" ", bytes(range(44))))
    maps = {
        "good": {"weight_map": {"a": "a.safetensors", "b": "b.safetensors", "c": "b.safetensors"}},
        "one": {"weight_map": {"a": "a.safetensors"}}, "empty": {"weight_map": {}}, "none": {},
        "wrong": {"weight_map": {"a": "b.safetensors"}}, "outside": {"weight_map": {"a": "../a.safetensors"}},
        "absolute": {"weight_map": {"a": "/etc/passwd"}}, "dots": {"weight_map": {"a": ".."}},
        "itself": {"weight_map": {"a": "model.safetensors.index.json"}}, "number": {"weight_map": {"a": 7}},
        "list": {"weight_map": ["a.safetensors"]}}
    for name, value in maps.items():
        write("safetensors_index", name, compact(value))


def server_configs():
    model = {"name": "m", "path": "models/m"}
    full = {
        "listen": "127.0.0.1:0", "metrics_listen": "[::1]:9464", "metrics_vllm_names": True,
        "model_root": "models", "models": [model | {
            "aliases": ["x"], "device": "cuda:1", "dtype": "bf16",
            "weight_dtype": "fp8_e4m3", "state_dtype": "bf16", "slots": 8,
            "max_batch_tokens": 64, "max_prefill_tokens": 128, "load": "on_demand", "pinned": True,
            "when_full": "drain_then_load", "sampling": {"temperature": 0.5, "top_k": 3}}],
        "default_model": "m", "memory_mib": {"cpu": 100}, "checkpoint_poll_seconds": 1,
        "limits": {"max_n": 4, "max_queued_tokens": 10**10, "max_request_seconds": 1.5},
        "tls": {"certificate": "c", "private_key": "k", "client_ca": "a"}, "api_keys": "keys",
        "connections": {"max_age_seconds": 60}, "drain_timeout_seconds": 3,
        "log": {"level": "warn", "requests": False}}
    write("server_config", "full", b"\0" + json.dumps(full, indent=1).encode())
    write("server_config", "demo", b"\0" + (ROOT / "configs/demo.json").read_bytes())
    for name, change in {
            "unknown_key": {"port": 1}, "no_models": {"models": []}, "twice": {"models": [model, model]},
            "port": {"listen": "host:65536"}, "vast": {"limits": {"max_n": 2**63}},
            "fraction": {"limits": {"max_n": 1.5}}, "huge": {"drain_timeout_seconds": 1e308},
            "outside": {"model_root": "models", "models": [model | {"path": "../../etc"}]}}.items():
        write("server_config", name, b"\0" + compact({"models": [model]} | change))
    write("server_config", "doubled", b'\0{"models":[{"name":"m","path":"p"}],"models":[]}')
    write("server_config", "no_json", b"\0{\"models\": [\n\n{]}")
    hexes = ["2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90", "0" * 64]
    write("server_config", "keys", f"\1# keys\nalice user {hexes[0]}\nops admin {hexes[1]}\n".encode())
    write("server_config", "bad_keys", f"\1alice root {hexes[0]}\nops admin {hexes[1]}\n".encode())


def requests():
    from conftest import generate_stubs
    with tempfile.TemporaryDirectory() as folder:
        generate_stubs(folder)
        sys.path.insert(0, folder)
        from fla.v1 import inference_pb2 as pb
    sampling = pb.SamplingParams(temperature=0.7, top_k=40, top_p=0.9, min_p=0.01, seed=2**64 - 1,
                                 repetition_penalty=1.1, presence_penalty=-1, frequency_penalty=1,
                                 logit_bias={5: 1.5, 7: -100})
    generate = {
        "text": dict(text="Once upon a time"), "ids": dict(token_ids=pb.TokenIds(ids=[1, 2, 4095])),
        "all": dict(text="a", model="demo", request_id="r", sampling=sampling, max_new_tokens=9,
                    min_new_tokens=2, n=3, stop_strings=["ab", "b"], stop_token_ids=[5, 6],
                    include_stop_strings=True, ignore_eos=True, logprobs=2, prompt_logprobs=1,
                    priority=-3),
        "nan": dict(text="a", sampling=pb.SamplingParams(temperature=float("nan"))),
        "negative": dict(text="a", sampling=pb.SamplingParams(top_p=-1, top_k=-5)),
        "out": dict(token_ids=pb.TokenIds(ids=[-1, 2**31 - 1])),
        "score": dict(text="a b c", max_new_tokens=0, prompt_logprobs=5),
        "many": dict(text="a", n=2**31 - 1), "nothing": {},
        "bias_out": dict(text="a", sampling=pb.SamplingParams(logit_bias={-1: 1})),
        "bias_infinite": dict(text="a", sampling=pb.SamplingParams(logit_bias={1: float("inf")})),
        "empty_stop": dict(text="a", stop_strings=[""]),
        "chat": dict(chat=pb.Chat(
            messages=[pb.ChatMessage(role="user", content="Hi"), pb.ChatMessage(
                role="assistant", reasoning_content="r", extra='{"k": 1}', tool_calls=[
                    pb.ToolCall(id="c", name="f", arguments='{"a": 1}')]),
                pb.ChatMessage(role="tool", tool_call_id="c", name="f", content="x")],
            tools="[{}]", template_arguments='{"enable_thinking": false}')),
        "chat_empty": dict(chat=pb.Chat()),
        "chat_bad_json": dict(chat=pb.Chat(messages=[pb.ChatMessage(role="u", extra="[")])),
    }
    for name, fields in generate.items():
        write("request", f"generate_{name}", b"\0" + pb.GenerateRequest(**fields).SerializeToString())
    write("request", "generate_no_utf8", b"\0\x1a\x02\xff\xfe")
    write("request", "generate_no_message", b"\0\xff\xff\xff\xff")
    three = struct.pack("<6f", 1, -2, 3e-38, 4, 5, 6)
    embed = {
        "text": dict(inputs=[pb.EmbedInput(text="Once upon a time"), pb.EmbedInput(text="b")]),
        "all": dict(inputs=[pb.EmbedInput(token_ids=pb.TokenIds(ids=[1, 2, 4095])),
                            pb.EmbedInput(vectors=pb.Vectors(rows=2, columns=3, values=three))],
                    model="demo", request_id="r", pooling=pb.POOLING_ALL, priority=-3),
        "nan": dict(inputs=[pb.EmbedInput(vectors=pb.Vectors(
            rows=1, columns=3, values=struct.pack("<3f", 0, float("nan"), 0)))]),
        "short": dict(inputs=[pb.EmbedInput(vectors=pb.Vectors(rows=3, columns=3, values=three))]),
        "vast": dict(inputs=[pb.EmbedInput(vectors=pb.Vectors(rows=2**31 - 1, columns=2**31 - 1))]),
        "none": dict(inputs=[pb.EmbedInput()]), "nothing": {}, "pooling": dict(pooling=9),
    }
    for name, fields in embed.items():
        write("request", f"embed_{name}", b"\3" + pb.EmbedRequest(**fields).SerializeToString())
    write("request", "tokenize", b"\1" + pb.TokenizeRequest(text="Ünïcode 🙂 text").SerializeToString())
    write("request", "detokenize", b"\2" + pb.DetokenizeRequest(ids=[5, 200, 4000]).SerializeToString())
    write("request", "detokenize_out", b"\2" + pb.DetokenizeRequest(ids=[4096]).SerializeToString())


if __name__ == "__main__":
    tokenizers()
    chat_templates()
    model_configs()
    safetensors()
    server_configs()
    requests()
