"""What a request gets: text, tokens, finishes, log-probabilities, choices."""
import pytest

from fla.v1 import inference_pb2 as pb

PROMPT = "Once upon a time there was a little girl who"
EOS = 0


def greedy(server, **fields):
    answer = server.generate(**{"text": PROMPT, "temperature": 0, "ignore_eos": True,
                                "max_new_tokens": 48, **fields})
    return answer.choices[0]


def test_answer_is_complete(server):
    answer = server.generate(text=PROMPT, request_id="my id", temperature=0, max_new_tokens=5,
                             ignore_eos=True)
    assert (answer.request_id, answer.model) == ("my id", "demo")
    assert answer.usage.prompt_tokens == len(server.tokenize(PROMPT))
    assert answer.usage.completion_tokens == len(answer.choices[0].token_ids) == 5
    assert answer.choices[0].finish.reason == pb.FINISH_REASON_LENGTH
    assert answer.choices[0].finish.WhichOneof("stop") is None
    times = answer.timings
    assert 0 <= times.queue_seconds <= times.first_token_seconds <= times.total_seconds
    assert times.prefill_seconds > 0 and times.decode_seconds > 0
    assert not answer.prompt_logprobs and not answer.choices[0].logprobs


def test_text_is_the_tokens_decoded(server):
    choice = greedy(server, temperature=1.5, seed=3, max_new_tokens=200)
    assert choice.text == server.detokenize(choice.token_ids, skip_special_tokens=True)


def test_a_stream_carries_the_same(server):
    whole = server.generate(text=PROMPT, temperature=0.9, seed=5, max_new_tokens=40, logprobs=2,
                            prompt_logprobs=1)
    messages = server.stream(text=PROMPT, temperature=0.9, seed=5, max_new_tokens=40, logprobs=2,
                             prompt_logprobs=1, request_id="s")
    assert "".join(m.delta.text for m in messages) == whole.choices[0].text
    assert [t for m in messages for t in m.delta.token_ids] == list(whole.choices[0].token_ids)
    assert [e for m in messages for e in m.delta.logprobs] == list(whole.choices[0].logprobs)
    assert list(messages[0].prompt_logprobs) == list(whole.prompt_logprobs)
    assert not any(m.prompt_logprobs for m in messages[1:])
    assert all(m.request_id == "s" and m.model == "demo" for m in messages)
    assert [m.delta.HasField("finish") for m in messages] == [False] * (len(messages) - 1) + [True]
    assert [m.HasField("usage") for m in messages] == [m.HasField("timings") for m in messages]
    assert [m.HasField("usage") for m in messages] == [False] * (len(messages) - 1) + [True]
    assert messages[-1].usage == whole.usage
    assert len(messages) > 5, "a stream that comes at once is none"


def test_a_stop_string_across_token_borders_ends_the_text(server):
    choice = greedy(server)
    pieces = [server.detokenize([t]) for t in choice.token_ids]
    # The last letter of one token and the first two of what follows.
    border = next(i for i in range(8, 40) if pieces[i] and len("".join(pieces[i + 1:i + 3])) > 2)
    stop = pieces[border][-1] + "".join(pieces[border + 1:border + 3])[:2]
    kept = choice.text[:choice.text.index(stop)]
    for include in (False, True):
        fields = dict(text=PROMPT, temperature=0, ignore_eos=True, max_new_tokens=48,
                      stop_strings=["\x01never", stop], include_stop_strings=include)
        stopped = server.generate(**fields).choices[0]
        assert stopped.text == kept + (stop if include else "")
        assert stopped.finish.reason == pb.FINISH_REASON_STOP
        assert stopped.finish.stop_string == stop
        assert len(stopped.token_ids) < 48
        streamed = "".join(m.delta.text for m in server.stream(**fields))
        assert streamed == stopped.text


def test_the_beginning_of_a_stop_string_is_not_lost(server):
    text = greedy(server).text
    unmet = text[10:14] + "\x02"  # begins as the text goes on, then does not
    choice = greedy(server, stop_strings=[unmet])
    assert choice.text == text
    assert choice.finish.reason == pb.FINISH_REASON_LENGTH


def test_a_stop_token_ends_the_text(server):
    tokens = list(greedy(server).token_ids)
    stop = tokens[6]
    choice = greedy(server, stop_token_ids=[stop])
    assert choice.finish.reason == pb.FINISH_REASON_STOP
    assert choice.finish.stop_token_id == stop
    length = tokens.index(stop) + 1
    assert list(choice.token_ids) == tokens[:length]
    assert choice.text == server.detokenize(tokens[:length - 1])


def test_end_of_text_and_min_new_tokens(server):
    bias = {EOS: 100.0}
    choice = greedy(server, logit_bias=bias, ignore_eos=False)
    assert list(choice.token_ids) == [EOS] and choice.text == ""
    assert choice.finish.reason == pb.FINISH_REASON_STOP
    assert choice.finish.WhichOneof("stop") is None
    choice = greedy(server, logit_bias=bias, ignore_eos=False, min_new_tokens=5)
    assert len(choice.token_ids) == 6
    assert choice.token_ids[-1] == EOS and EOS not in choice.token_ids[:5]
    choice = greedy(server, logit_bias=bias, max_new_tokens=3)
    assert list(choice.token_ids) == [EOS] * 3
    assert choice.finish.reason == pb.FINISH_REASON_LENGTH


def test_logit_bias_forbids_a_token(server):
    first = greedy(server).token_ids[0]
    assert greedy(server, logit_bias={first: -100.0}).token_ids[0] != first


def test_penalties_change_what_repeats(server):
    plain = greedy(server, max_new_tokens=150)
    sampling = pb.SamplingParams(temperature=0, frequency_penalty=2.0, presence_penalty=2.0,
                                 repetition_penalty=1.5)
    answer = server.inference.Generate(pb.GenerateRequest(
        text=PROMPT, sampling=sampling, max_new_tokens=150, ignore_eos=True))
    assert len(set(answer.choices[0].token_ids)) > len(set(plain.token_ids))


def test_logprobs_describe_the_tokens(server):
    choice = greedy(server, logprobs=4, max_new_tokens=10)
    assert len(choice.logprobs) == len(choice.token_ids) == 10
    for token, entry in zip(choice.token_ids, choice.logprobs):
        assert entry.chosen.token_id == token == entry.top[0].token_id
        assert entry.chosen.logprob == entry.top[0].logprob <= 0
        assert len(entry.top) == 4
        values = [t.logprob for t in entry.top]
        assert values == sorted(values, reverse=True)
    joined = b"".join(entry.chosen.token for entry in choice.logprobs)
    assert joined.decode("utf-8", errors="replace") == choice.text
    assert all(not e.top for e in greedy(server, logprobs=0, max_new_tokens=3).logprobs)


def test_scoring_generates_nothing(server):
    answer = server.generate(text=PROMPT, max_new_tokens=0, prompt_logprobs=0)
    ids = server.tokenize(PROMPT)
    assert [e.chosen.token_id for e in answer.prompt_logprobs] == ids[1:]
    assert answer.choices[0].text == "" and not answer.choices[0].token_ids
    assert answer.choices[0].finish.reason == pb.FINISH_REASON_LENGTH
    assert answer.usage.completion_tokens == 0
    (message,) = server.stream(text=PROMPT, max_new_tokens=0, prompt_logprobs=0)
    assert message.prompt_logprobs == answer.prompt_logprobs
    assert message.delta.HasField("finish") and message.HasField("usage")


def test_scoring_one_token_gives_no_entries(server):
    answer = server.generate(ids=[17], max_new_tokens=0, prompt_logprobs=5)
    assert not answer.prompt_logprobs and answer.usage.prompt_tokens == 1


def test_scores_do_not_depend_on_the_pieces_of_a_prompt(server, start_server):
    ids = server.tokenize("The cat sat on the mat. " * 60)
    small = start_server(slots=4, max_batch_tokens=33)
    wanted = server.generate(ids=ids, max_new_tokens=0, prompt_logprobs=0).prompt_logprobs
    got = small.generate(ids=ids, max_new_tokens=0, prompt_logprobs=0).prompt_logprobs
    assert len(got) == len(ids) - 1
    assert [e.chosen.logprob for e in got] == pytest.approx(
        [e.chosen.logprob for e in wanted], abs=2e-3)


def test_a_seed_gives_the_same_text_again(server):
    fields = dict(text=PROMPT, temperature=1.0, max_new_tokens=40)
    first = server.generate(seed=11, **fields).choices[0].text
    assert server.generate(seed=11, **fields).choices[0].text == first
    assert server.generate(seed=12, **fields).choices[0].text != first
    assert len({server.generate(**fields).choices[0].text for _ in range(3)}) == 3


def test_choices_draw_with_seeds_of_their_own(server):
    fields = dict(text=PROMPT, temperature=1.0, max_new_tokens=20)
    answer = server.generate(seed=100, n=4, prompt_logprobs=0, **fields)
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    alone = [server.generate(seed=100 + i, **fields).choices[0] for i in range(4)]
    assert [c.text for c in answer.choices] == [c.text for c in alone]
    assert len({c.text for c in answer.choices}) == 4
    assert answer.usage.prompt_tokens == len(server.tokenize(PROMPT))
    assert answer.usage.completion_tokens == sum(len(c.token_ids) for c in answer.choices)
    assert len(answer.prompt_logprobs) == answer.usage.prompt_tokens - 1
    messages = server.stream(seed=100, n=4, **fields)
    for choice in answer.choices:
        mine = [m.delta for m in messages if m.delta.index == choice.index]
        assert "".join(d.text for d in mine) == choice.text
        assert [d.HasField("finish") for d in mine] == [False] * (len(mine) - 1) + [True]
    assert [m.HasField("usage") for m in messages] == [False] * (len(messages) - 1) + [True]
    assert messages[-1].usage == answer.usage


def test_unset_sampling_takes_the_models_defaults(server):
    fields = dict(text=PROMPT, seed=4, max_new_tokens=60)
    default = server.generate(**fields).choices[0].text
    assert server.generate(temperature=0.8, top_p=0.95, **fields).choices[0].text == default
    assert server.generate(temperature=1.0, top_p=1.0, **fields).choices[0].text != default


def test_top_k_of_one_is_greedy(server):
    wanted = greedy(server).text
    assert greedy(server, temperature=1.0, top_k=1, seed=9).text == wanted


def test_default_length_is_the_configs(server):
    answer = server.generate(text=PROMPT, temperature=0, ignore_eos=True)
    assert answer.usage.completion_tokens == server.config["limits"]["default_max_new_tokens"]


def test_characters_of_several_tokens_come_whole(server):
    # Bytes of the prompt's curly quotes are tokens of their own in part of the vocabulary.
    ids = server.tokenize("\u201c\u00e9\u4e16\U0001f600", add_special_tokens=False)
    bias = {i: 100.0 for i in ids}
    messages = server.stream(ids=[EOS], temperature=1.0, seed=2, max_new_tokens=60, logit_bias=bias,
                             ignore_eos=True)
    tokens = [t for m in messages for t in m.delta.token_ids]
    assert "".join(m.delta.text for m in messages) == server.detokenize(
        tokens, skip_special_tokens=True)


def test_tokenize_and_detokenize(server):
    text = "Don\u2019t  panic!\n\t\u4f60\u597d"
    answer = server.inference.Tokenize(pb.TokenizeRequest(text=text))
    assert answer.ids[0] == EOS
    bare = server.inference.Tokenize(pb.TokenizeRequest(text=text, add_special_tokens=False))
    assert list(bare.ids) == list(answer.ids)[1:]
    assert b"".join(bare.tokens).decode() == text
    assert server.detokenize(bare.ids) == text
    assert server.detokenize(answer.ids) == "<|endoftext|>" + text
    assert server.detokenize(answer.ids, skip_special_tokens=True) == text
    assert server.detokenize([]) == ""
