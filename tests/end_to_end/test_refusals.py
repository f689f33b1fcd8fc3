"""What the server refuses, and how it says so."""
import math
import threading

import grpc
import pytest

from fla.v1 import inference_pb2 as pb
from server_process import request

NAN = math.nan


def refusal(call, message):
    with pytest.raises(grpc.RpcError) as caught:
        answer = call(message, timeout=60)
        list(answer)  # of a stream
    return caught.value.code(), caught.value.details()


@pytest.mark.parametrize("message, words", [
    (pb.GenerateRequest(), ["prompt", "text, token_ids or chat"]),
    (request(ids=[]), ["token_ids", "got 0"]),
    (request(ids=[4096]), ["token_ids", "0 to 4095", "4096"]),
    (request(ids=[-1]), ["token_ids", "-1"]),
    (request(text="a", temperature=-1), ["sampling.temperature", ">= 0", "-1"]),
    (request(text="a", temperature=NAN), ["sampling.temperature", "nan"]),
    (request(text="a", top_p=0), ["sampling.top_p", "(0, 1]", "got 0"]),
    (request(text="a", top_k=-2), ["sampling.top_k", "-2"]),
    (request(text="a", logit_bias={7: 1000}), ["sampling.logit_bias[7]", "1000"]),
    (request(text="a", max_new_tokens=0), ["max_new_tokens", "prompt_logprobs"]),
    (request(text="a", max_new_tokens=10**9), ["max_new_tokens", "1000000000"]),
    (request(text="a", n=0), ["n: ", "got 0"]),
    (request(text="a", logprobs=21), ["logprobs", "0 to 20", "21"]),
    (request(text="a", stop_strings=[""]), ["stop_strings[0]"]),
    (request(text="a", stop_token_ids=[5000]), ["stop_token_ids", "5000"]),
])
def test_a_bad_request_is_told_field_bound_and_value(server, message, words):
    for call in (server.inference.Generate, server.inference.GenerateStream):
        code, details = refusal(call, message)
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        for word in words:
            assert word in details


def test_an_unknown_model_is_told_those_there_are(server):
    for call, message in [(server.inference.Generate, request(text="a", model="gpt")),
                          (server.inference.GenerateStream, request(text="a", model="gpt")),
                          (server.inference.Tokenize, pb.TokenizeRequest(text="a", model="gpt")),
                          (server.inference.Detokenize, pb.DetokenizeRequest(model="gpt"))]:
        code, details = refusal(call, message)
        assert code == grpc.StatusCode.NOT_FOUND
        assert "demo" in details and "gpt" in details


def test_detokenize_checks_its_ids(server):
    code, details = refusal(server.inference.Detokenize, pb.DetokenizeRequest(ids=[1, 4096]))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "4096 at index 1" in details


def test_bytes_that_are_no_message_do_no_harm(server):
    raw = server.channel.unary_unary("/fla.v1.Inference/Generate")
    with pytest.raises(grpc.RpcError):
        raw(b"\xff\xff\xff\xff", timeout=10)
    bad_text = server.channel.unary_unary("/fla.v1.Inference/Tokenize")
    with pytest.raises(grpc.RpcError):
        bad_text(b"\x12\x02\xff\xfe", timeout=10)  # text: two bytes that are no UTF-8
    assert server.tokenize("a")


def test_a_message_that_is_too_large_is_refused(start_server):
    small = start_server(limits={"max_message_bytes": 2048})
    code, _ = refusal(small.inference.Generate, request(text="a" * 4096))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_limits_of_the_config_hold(start_server):
    strict = start_server(limits={"max_prompt_tokens": 4, "max_new_tokens": 3, "max_n": 1,
                                  "default_max_new_tokens": 2})
    assert strict.generate(ids=[1, 2, 3, 4], ignore_eos=True).usage.completion_tokens == 2
    for message in (request(ids=[1, 2, 3, 4, 5]), request(ids=[1], max_new_tokens=4),
                    request(ids=[1], n=2)):
        code, _ = refusal(strict.inference.Generate, message)
        assert code == grpc.StatusCode.INVALID_ARGUMENT


def test_a_full_queue_refuses_at_once(start_server):
    tight = start_server(slots=1, limits={"max_queued_requests": 2})
    long = dict(text="Once", ignore_eos=True, max_new_tokens=20000)
    running = tight.inference.GenerateStream(request(**long))
    next(running)
    tight.wait_for_metric("fla_requests_running", 1)
    waiting = [tight.inference.GenerateStream(request(**long)) for _ in range(2)]
    tight.wait_for_metric("fla_requests_waiting", 2)
    code, details = refusal(tight.inference.Generate, request(text="a"))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "max_queued_requests is 2" in details
    with pytest.raises(grpc.RpcError) as caught:
        tight.inference.Generate(request(text="a"), timeout=60)
    assert b"type.googleapis.com/google.rpc.RetryInfo" in dict(
        caught.value.trailing_metadata())["grpc-status-details-bin"]
    code, _ = refusal(tight.inference.GenerateStream, request(text="a", n=2))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert tight.metric("fla_admission_rejections_total", reason="queue_full") == 4
    for one in [running, *waiting]:
        one.cancel()
    tight.wait_for_metric("fla_requests_running", 0)
    assert tight.generate(text="a", max_new_tokens=2).usage.completion_tokens >= 1


def test_calls_beyond_the_most_at_once_are_counted(start_server):
    tight = start_server(slots=1, limits={"max_concurrent_streams": 1})
    running = tight.inference.GenerateStream(
        request(text="Once", ignore_eos=True, max_new_tokens=20000))
    next(running)
    for _ in range(3):
        code, details = refusal(tight.inference.Generate, request(text="a"))
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "max_concurrent_streams is 1" in details
    assert tight.metric("fla_admission_rejections_total", reason="too_many_calls") == 3
    running.cancel()


def test_a_client_that_does_not_read_is_cut_off(start_server):
    """Its stream is ended with RESOURCE_EXHAUSTED and its slot freed, while others go on."""
    server = start_server(slots=2, limits={"max_unread_events": 64})
    # A stalled reader: the client's flow-control window fills and nothing is taken from it.
    options = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0),
               ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server.address, options) as channel:
        call = channel.unary_stream("/fla.v1.Inference/GenerateStream",
                                    pb.GenerateRequest.SerializeToString,
                                    pb.GenerateStreamResponse.FromString)
        stalled = call(request(text="Once", ignore_eos=True, max_new_tokens=32768, logprobs=20))
        threading.Event().wait(0.2)
        assert server.generate(text="a", max_new_tokens=5).choices[0].finish.reason
        server.wait_for_metric("fla_state_slots_used", 0, seconds=60)
        received = 0
        with pytest.raises(grpc.RpcError) as caught:
            for message in stalled:
                received += len(message.delta.token_ids)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert received < 32768
