"""Embed of float sequences, by models that take them."""
import concurrent.futures

import grpc
import numpy as np
import pytest
from safetensors.numpy import load_file

from fla.v1 import inference_pb2 as pb
from server_process import ROOT, request
from test_client import cli
from test_embed import (ALL, EDIFICE, LAST, MEAN, difference, edifice, edifice_reference, embed,
                        embed_request, refusal, serve, write_edifice)

CASES = {
    "split": {}, "none": {"normalization": "none", "feature_map": "relu"},
    "sum": {"normalization": "sum", "feature_map": "identity", "embed_dim": 32},
    "lightning": {"model_type": "lightning_attention", "output": "mean", "feature_map": None,
                  "normalization": None},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_vectors_in_ragged_company_give_what_the_reference_gives(start_server, tmp_path, changes):
    """In pieces too: a step takes 40 rows."""
    config = edifice(**changes)
    path = write_edifice(tmp_path / "model", **changes)
    weights = {name: value.astype(float) for name, value in
               load_file(path / "model.safetensors").items()}
    server = serve(start_server, path, slots=5, max_batch_tokens=40)
    chunk, draw = config["chunk_size"], np.random.default_rng(5)
    sequences = [draw.normal(size=(length, config["embed_dim"])).astype("<f4")
                 for length in (1, 2, chunk - 1, chunk, chunk + 1, 3 * chunk, 10 * chunk + 3)]
    wanted = [edifice_reference.hidden_states(config, weights, x) for x in sequences]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        every, last, mean, default = threads.map(
            lambda pooling: embed(server, *sequences, pooling=pooling),
            (ALL, LAST, MEAN, pb.POOLING_UNSPECIFIED))
    for i, states in enumerate(wanted):
        assert difference(every[i], states) <= 1e-5
        assert difference(last[i][0], states[-1]) <= 1e-5
        assert difference(mean[i][0], states.mean(axis=0)) <= 1e-5
        of_output = mean if config.get("output") == "mean" else last
        assert difference(default[i], of_output[i]) <= 1e-5


def test_token_ids_are_their_rows_of_the_table(start_server):
    """In one call: vectors, token ids and a text, beside each other in the batch."""
    path = ROOT / "tests/golden/flash_linear_attention"
    table = load_file(path / "model.safetensors")["token_embedding.kernel"].astype("<f4")
    server = serve(start_server, path, max_batch_tokens=64)
    text = "Once upon a time there was a little girl who lived in the woods and read old books"
    ids = [ord(c) for c in text]
    rows, tokens, words = embed(server, table[ids], ids, text, pooling=ALL)
    assert len(rows) == len(text)
    assert np.array_equal(tokens, words) and difference(rows, tokens) <= 1e-6
    (other,) = embed(server, -table[ids], pooling=ALL)
    assert difference(other, rows) > 0.1


def test_a_model_without_a_vocabulary_embeds_vectors_alone(start_server, tmp_path):
    server = serve(start_server, write_edifice(tmp_path / "model", output="all"))
    ones = np.ones((3, EDIFICE["embed_dim"]))
    assert embed(server, ones)[0].shape == (3, 32)  # all, as the checkpoint says
    nan, late = ones.copy(), ones.copy()
    nan[2, 7] = np.nan
    late[1, 0] = np.inf
    for call, message, words in [
            (server.inference.Embed, embed_request(ones, "a"), ["inputs[1].text", "tokenizer"]),
            (server.inference.Embed, embed_request([1]), ["inputs[0].token_ids", "no vocabulary"]),
            (server.inference.Generate, request(ids=[1]), ["token_ids", "no vocabulary"]),
            (server.inference.Embed, embed_request(ones[:, :5]),
             ["inputs[0].vectors.columns", "24", "got 5"]),
            (server.inference.Embed, embed_request(ones, nan),
             ["inputs[1].vectors.values", "finite", "row 2, column 7"]),
            (server.inference.Embed, embed_request(late), ["row 1, column 0", "inf"]),
            (server.inference.Embed, pb.EmbedRequest(inputs=[pb.EmbedInput(
                vectors=pb.Vectors(rows=2, columns=24, values=b"abc"))]),
             ["inputs[0].vectors.values", "192 bytes", "got 3"])]:
        code, details = refusal(call, message)
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        for word in words:
            assert word in details
    bench = cli(server, "bench", "--concurrency", "2")
    assert bench.returncode == 1 and "no vocabulary" in bench.stderr
    (model,) = server.models()
    assert model.vocab_size == 0 and model.model_type == "flash_linear_attention"
