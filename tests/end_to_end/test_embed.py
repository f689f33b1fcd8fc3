"""Embed: the model's hidden states as vectors, alone, in company, and what is refused."""
import concurrent.futures
import json
import math
import random
import sys

import grpc
import numpy as np
import pytest

from checkpoints import copy_golden
from fla.v1 import inference_pb2 as pb
from server_process import ROOT, demo_config
from test_client import cli
from test_refusals import refusal

sys.path.insert(0, str(ROOT / "tests/model"))
import edifice_reference  # noqa: E402

CLIENTS = 16
SEQUENCES = 1000
LAST, MEAN, ALL = pb.POOLING_LAST, pb.POOLING_MEAN, pb.POOLING_ALL


def input_of(one):
    """Text, or token ids, or rows of vectors."""
    if isinstance(one, str):
        return pb.EmbedInput(text=one)
    if isinstance(one, np.ndarray):
        return pb.EmbedInput(vectors=pb.Vectors(rows=one.shape[0], columns=one.shape[1],
                                                values=one.astype("<f4").tobytes()))
    return pb.EmbedInput(token_ids=pb.TokenIds(ids=one))


def embed_request(*inputs, **fields):
    return pb.EmbedRequest(inputs=[input_of(one) for one in inputs], **fields)


def arrays(response):
    return [np.frombuffer(e.vectors.values, "<f4").reshape(e.vectors.rows, e.vectors.columns)
            for e in response.embeddings]


def embed(server, *inputs, **fields):
    return arrays(server.inference.Embed(embed_request(*inputs, **fields), timeout=120))


def difference(a, b):
    return np.linalg.norm(a.astype(float) - b) / np.linalg.norm(b.astype(float))


EDIFICE = dict(model_type="flash_linear_attention", embed_dim=24, hidden_size=32, num_heads=2,
               num_layers=2, chunk_size=16, feature_map="elu", normalization="split")


def edifice(**changes):
    return {key: value for key, value in {**EDIFICE, **changes}.items() if value is not None}


def write_edifice(folder, seed=3, **changes):
    """A random checkpoint of Edifice's, without a tokenizer."""
    config = edifice(**changes)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    weights = edifice_reference.random_weights(config, seed)
    edifice_reference.write_safetensors(folder / "model.safetensors", weights)
    return folder


def serve(start_server, path, **options):
    (model,) = demo_config()["models"]
    return start_server(models=[{**model, "name": "tiny", "path": str(path), **options}],
                        default_model="tiny")


def ragged(seed, count, longest, vocabulary):
    numbers = random.Random(seed)
    return [[numbers.randrange(vocabulary) for _ in range(numbers.choice(
        (1, 2, 7, 30, 63, 64, 65, numbers.randint(1, longest))))] for _ in range(count)]


def as_vectors(sequences, size):
    """As many steps, each a vector of its own."""
    draw = np.random.default_rng(2)
    return [draw.normal(size=(len(ids), size)).astype("<f4") for ids in sequences]


@pytest.mark.parametrize("kind", ["token_ids", "vectors"])
def test_a_thousand_ragged_sequences_from_16_clients_equal_one_by_one(start_server, tmp_path, kind):
    ids = ragged(1, SEQUENCES, 300, 64)
    if kind == "vectors":
        path = write_edifice(tmp_path / "tiny", vocab_size=64)
        sequences = as_vectors(ids, EDIFICE["embed_dim"])
    else:
        path, sequences = copy_golden("gated_deltanet", tmp_path / "tiny"), ids
    tiny = serve(start_server, path, slots=12, max_batch_tokens=192)
    poolings = [(LAST, MEAN, ALL)[i % 7 % 3] for i in range(SEQUENCES)]
    alone = [embed(tiny, ids, pooling=pooling)[0] for ids, pooling in zip(sequences, poolings)]
    before = tiny.metrics()

    def client(number):
        """Its sequences, some at a time, and now and then a text to be generated."""
        mine = range(number, SEQUENCES, CLIENTS)
        numbers, got, texts, batches = random.Random(number), {}, [], 0
        left = list(mine)
        while left:
            pooling = poolings[left[0]]
            batch = [i for i in left if poolings[i] == pooling][:numbers.randint(1, 9)]
            left = [i for i in left if i not in batch]
            for i, vectors in zip(batch, embed(tiny, *(sequences[i] for i in batch),
                                               pooling=pooling, priority=numbers.randint(-2, 2))):
                got[i] = vectors
            batches += 1
            if batches % 5 == 0:
                texts.append(tuple(tiny.generate(ids=ids[number][:20], max_new_tokens=8,
                                                 temperature=0, ignore_eos=True)
                                   .choices[0].token_ids))
        return got, texts

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as threads:
        answers = list(threads.map(client, range(CLIENTS)))
    together = {i: vectors for got, _ in answers for i, vectors in got.items()}
    assert sorted(together) == list(range(SEQUENCES))
    worst = max(difference(together[i], alone[i]) for i in range(SEQUENCES))
    assert worst <= 1e-5
    assert all(together[i].shape == alone[i].shape for i in range(SEQUENCES))
    for number, (_, texts) in enumerate(answers):
        assert texts and len(set(texts)) == 1, number

    after = tiny.metrics()

    def grown(name, **labels):
        key = (f"fla_{name}", tuple(sorted(labels.items())))
        return after[key] - before[key]

    generated = sum(len(texts) for _, texts in answers)
    assert grown("requests_total", finish_reason="embedded") == SEQUENCES
    assert grown("requests_total", finish_reason="length") == generated
    assert grown("generation_tokens_total") == 8 * generated
    assert grown("time_to_first_token_seconds_count") == generated
    assert grown("request_prefill_time_seconds_count") == SEQUENCES + generated
    prompts = sum(map(len, sequences)) + sum(
        len(ids[number][:20]) * len(texts) for number, (_, texts) in enumerate(answers))
    assert grown("prompt_tokens_total") == grown("request_prompt_tokens_sum") == prompts
    assert after[("fla_state_slots_used", ())] == after[("fla_requests_waiting", ())] == 0


def test_last_and_mean_are_those_of_all(server):
    texts = ["Once", "Once upon a time there was a little girl who", "The old house " * 60]
    every = embed(server, *texts, pooling=ALL)
    for one, last, mean, text in zip(every, embed(server, *texts),
                                     embed(server, *texts, pooling=MEAN), texts):
        assert len(one) == len(server.tokenize(text)) and one.shape[1] == 384
        assert difference(last[0], one[-1]) <= 1e-6
        assert difference(mean[0], one.astype(float).mean(axis=0)) <= 1e-6
    # What comes later changes nothing of what was before.
    assert difference(embed(server, texts[1], pooling=ALL)[0][:1], every[0][:1]) <= 1e-5


def test_a_text_is_its_token_ids(server):
    text = "The old house stood at the end of the lane"
    ids = server.tokenize(text)
    response = server.inference.Embed(embed_request(text, ids, ids[:3], request_id="mine"))
    a, b, c = arrays(response)
    assert np.array_equal(a, b) and not np.allclose(a, c)
    assert response.request_id == "mine" and response.model == "demo" and response.model_version
    assert [e.tokens for e in response.embeddings] == [len(ids), len(ids), 3]
    assert response.usage.prompt_tokens == 2 * len(ids) + 3
    assert response.usage.completion_tokens == 0
    timings = response.timings
    assert 0 < timings.prefill_seconds <= timings.total_seconds
    assert abs(timings.queue_seconds + timings.prefill_seconds - timings.total_seconds) < 1e-6


def test_the_head_times_the_hidden_states_gives_the_scores(start_server, tmp_path):
    """The vectors are those that the model's log-probabilities are made of."""
    from safetensors.numpy import load_file
    path = copy_golden("kda", tmp_path / "kda")
    server = serve(start_server, path)
    head = load_file(path / "model.safetensors")["lm_head.weight"].astype(float)
    ids = [(i * 37 + 5) % 256 for i in range(200)]
    (hidden,) = embed(server, ids, pooling=ALL)
    logits = hidden.astype(float) @ head.T
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    scored = server.generate(ids=ids, max_new_tokens=0, prompt_logprobs=0).prompt_logprobs
    assert len(scored) == len(ids) - 1
    for position, entry in enumerate(scored):
        assert math.isclose(entry.chosen.logprob, logprobs[position, ids[position + 1]],
                            abs_tol=1e-4)


@pytest.mark.parametrize("message, words", [
    (embed_request(), ["inputs", "1 to 256", "got 0"]),
    (embed_request("a", []), ["inputs[1].token_ids", "1 to ", "got 0"]),
    (pb.EmbedRequest(inputs=[pb.EmbedInput()]), ["inputs[0]", "none of them"]),
    (embed_request([5], [1, 4096]), ["inputs[1].token_ids", "0 to 4095", "4096 at index 1"]),
    (embed_request("a", pooling=7), ["pooling", "LAST, MEAN or ALL", "got 7"]),
    (embed_request("a", priority=1000), ["priority", "1000"]),
    (embed_request("a", request_id="x" * 257), ["request_id", "257"]),
    (embed_request(np.zeros((3, 8))), ["inputs[0].vectors", "kda", "no vectors"]),
    (embed_request(*["a"] * 257), ["inputs", "got 257"]),
    (embed_request([1] * 2605, pooling=ALL), ["inputs[0]", "4000000 bytes", "2604 vectors", "2605"]),
])
def test_a_bad_request_is_told_field_bound_and_value(server, message, words):
    rejected = server.metric("fla_admission_rejections_total", reason="invalid")
    code, details = refusal(server.inference.Embed, message)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    for word in words:
        assert word in details
    assert server.metric("fla_admission_rejections_total", reason="invalid") == rejected + 1


def test_the_longest_answer_that_is_allowed_reaches_a_stock_client(server):
    with grpc.insecure_channel(server.address) as channel:  # receives 4 MiB at most
        call = channel.unary_unary("/fla.v1.Inference/Embed", pb.EmbedRequest.SerializeToString,
                                   pb.EmbedResponse.FromString)
        (vectors,) = arrays(call(embed_request([1] * 2604, pooling=ALL), timeout=120))
    assert vectors.shape == (2604, 384) and np.isfinite(vectors).all()


def test_an_unknown_model_is_told_those_there_are(server):
    code, details = refusal(server.inference.Embed, embed_request("a", model="gpt"))
    assert code == grpc.StatusCode.NOT_FOUND and "demo" in details


def test_cancelling_frees_every_slot(start_server):
    server = start_server(slots=2, max_batch_tokens=16, log={"format": "json"})
    long = [[1] * 20000] * 8
    call = server.inference.Embed.future(embed_request(*long, pooling=MEAN, request_id="given up"))
    server.wait_for_metric("fla_state_slots_used", 2)
    server.wait_for_metric("fla_requests_waiting", 6)
    call.cancel()
    server.wait_for_metric("fla_state_slots_used", 0)
    server.wait_for_metric("fla_requests_waiting", 0)
    assert server.metric("fla_requests_total", finish_reason="cancelled") == 8
    # A deadline does the same.
    with pytest.raises(grpc.RpcError) as caught:
        server.inference.Embed(embed_request(*long), timeout=0.5)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    server.wait_for_metric("fla_state_slots_used", 0)
    server.wait_for_metric("fla_requests_waiting", 0)
    assert len(embed(server, [1], [2])) == 2
    server.process.terminate()
    server.process.wait(30)
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    lines = [line for line in lines if line.get("event") == "request"]
    assert [line["client_id"] for line in lines] == ["given up", "", ""]
    assert [line["choices"] for line in lines] == [8, 8, 2]
    assert lines[0]["status"] == "CANCELLED" and lines[2]["finish_reasons"] == ["embedded"]
    assert lines[2]["status"] == "OK" and lines[2]["prompt_tokens"] == 2


def test_a_full_queue_takes_all_inputs_or_none(start_server):
    server = start_server(slots=1, max_batch_tokens=8, limits={"max_queued_requests": 3})
    code, details = refusal(server.inference.Embed, embed_request(*"abcd"))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "1 to 3 entries" in details
    holder = server.inference.Embed.future(embed_request([1] * 50000))
    server.wait_for_metric("fla_state_slots_used", 1)
    waiting = server.inference.Embed.future(embed_request("a", "b"))
    server.wait_for_metric("fla_requests_waiting", 2)
    code, details = refusal(server.inference.Embed, embed_request("c", "d"))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED and "max_queued_requests is 3" in details
    holder.cancel()
    assert len(arrays(waiting.result(60))) == 2


def test_draining_lets_embeddings_finish_and_takes_no_more(start_server):
    server = start_server(slots=2, max_batch_tokens=64, drain_timeout_seconds=600)
    running = server.inference.Embed.future(embed_request([1] * 4000, [2] * 4000, [3] * 10))
    server.wait_for_metric("fla_state_slots_used", 2)
    server.process.terminate()
    server.wait_for_metric("fla_model_serving", 0)
    with pytest.raises(grpc.RpcError) as caught:
        server.inference.Embed(embed_request("a"), timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert [v.shape for v in arrays(running.result(600))] == [(1, 384)] * 3
    server.process.wait(60)


def test_the_command_line_prints_heads_json_and_bytes(server):
    texts = ["Once upon a time", "The end"]
    vectors = embed(server, *texts, pooling=MEAN)
    heads = cli(server, "embed", *texts, "--pooling", "mean")
    assert heads.returncode == 0, heads.stderr
    first, second = heads.stdout.splitlines()
    assert first.startswith(f"{len(server.tokenize(texts[0]))} tokens, 1 x 384: ")
    shown = [float(x) for x in first.split(": ")[1].split()[:-1]]
    assert np.allclose(shown, vectors[0][0][:8], rtol=1e-3, atol=1e-5)
    lines = cli(server, "embed", *texts, "--pooling", "mean", "--json").stdout.splitlines()
    for line, wanted in zip(map(json.loads, lines), vectors, strict=True):
        assert np.array_equal(np.array(line["vectors"], np.float32), wanted)
    every = cli(server, "embed", texts[0], "--pooling", "all")
    assert len(every.stdout.splitlines()) == 1 + len(server.tokenize(texts[0]))
    bad = cli(server, "embed", "a", "--priority=-1000")
    assert bad.returncode == 1 and "INVALID_ARGUMENT: priority" in bad.stderr
