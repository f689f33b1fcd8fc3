"""The server says what the training framework's own implementation says of the same checkpoint."""
import json
import math
import pathlib

import numpy as np
import pytest
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
EVALUATION = json.loads((ROOT / "demo/eval.json").read_text())
EXPECTED = load_file(ROOT / "demo/expected.safetensors")
PROMPTS = range(len(EVALUATION["references"]))


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.mark.parametrize("i", PROMPTS)
def test_greedy_tokens_equal_the_reference(server, i):
    greedy = EXPECTED[f"greedy.{i}"].tolist()
    answer = server.generate(ids=EXPECTED[f"ids.{i}"].tolist(), temperature=0,
                             max_new_tokens=len(greedy), ignore_eos=True)
    assert list(answer.choices[0].token_ids) == greedy
    assert answer.choices[0].text == EVALUATION["references"][i]["greedy"]


@pytest.mark.parametrize("i", PROMPTS)
def test_a_text_prompt_is_tokenised_as_in_training(server, i):
    prompt = EVALUATION["references"][i]["prompt"]
    assert server.tokenize(prompt) == EXPECTED[f"ids.{i}"].tolist()
    answer = server.generate(text=prompt, temperature=0, max_new_tokens=8, ignore_eos=True)
    assert list(answer.choices[0].token_ids) == EXPECTED[f"greedy.{i}"].tolist()[:8]


@pytest.mark.parametrize("i", PROMPTS)
def test_log_probabilities_equal_the_reference(server, i):
    ids, logits = EXPECTED[f"ids.{i}"].tolist(), EXPECTED[f"logits.{i}"]
    wanted = log_softmax(logits)
    answer = server.generate(ids=ids, temperature=0, max_new_tokens=1, logprobs=20,
                             prompt_logprobs=3, ignore_eos=True)
    assert len(answer.prompt_logprobs) == len(ids) - 1
    for position, entry in enumerate(answer.prompt_logprobs):
        token = ids[position + 1]
        assert entry.chosen.token_id == token
        assert entry.chosen.logprob == pytest.approx(wanted[position, token], abs=2e-3)
        best = np.sort(wanted[position])[::-1][:3]
        assert [t.logprob for t in entry.top] == pytest.approx(best.tolist(), abs=2e-3)
    (last,) = answer.choices[0].logprobs
    order = np.argsort(-wanted[-1])[:20]
    assert last.chosen.token_id == last.top[0].token_id == order[0]
    assert [t.logprob for t in last.top] == pytest.approx(wanted[-1][order].tolist(), abs=2e-3)


@pytest.mark.slow
def test_held_out_loss_equals_the_reference(server):
    window, windows = EVALUATION["window"], EVALUATION["windows"]
    text = (ROOT / "demo/heldout.txt").read_text(encoding="utf-8")
    ids = server.tokenize(text, add_special_tokens=False)
    assert len(ids) > windows * window
    loss = 0.0
    for i in range(windows):
        answer = server.generate(ids=ids[i * window:(i + 1) * window + 1], max_new_tokens=0,
                                 prompt_logprobs=0)
        assert len(answer.prompt_logprobs) == window
        loss -= math.fsum(entry.chosen.logprob for entry in answer.prompt_logprobs)
    loss /= windows * window
    print(f"held-out loss {loss:.5f} nats a token")
    assert loss == pytest.approx(EVALUATION["nll_stored_weights_f32"], abs=0.002)
