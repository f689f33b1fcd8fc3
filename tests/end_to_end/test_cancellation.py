"""A client that cancels, passes its deadline or vanishes frees its slot at once."""
import subprocess
import sys
import time

import grpc
import pytest

from server_process import request

LONG = dict(text="Once upon a time", ignore_eos=True, max_new_tokens=30000)
SOON = 5.0  # seconds; a step takes milliseconds, but the machine may be busy


def finished(server, reason):
    return server.metric("fla_requests_total", finish_reason=reason)


def test_cancelling_a_stream_frees_the_slot(server):
    before = finished(server, "cancelled")
    stream = server.inference.GenerateStream(request(**LONG))
    next(stream)
    server.wait_for_metric("fla_state_slots_used", 1)
    stream.cancel()
    assert server.wait_for_metric("fla_state_slots_used", 0) < SOON
    server.wait_for_metric("fla_requests_total", before + 1, finish_reason="cancelled")
    assert server.metric("fla_requests_running") == 0


def test_cancelling_a_unary_call_frees_all_choices(server):
    call = server.inference.Generate.future(request(n=3, **LONG))
    server.wait_for_metric("fla_state_slots_used", 3)
    call.cancel()
    assert server.wait_for_metric("fla_state_slots_used", 0) < SOON


def test_cancelling_in_the_queue(start_server):
    server = start_server(slots=1)
    running = server.inference.GenerateStream(request(**LONG))
    next(running)
    waiting = server.inference.GenerateStream(request(**LONG))
    server.wait_for_metric("fla_requests_waiting", 1)
    waiting.cancel()
    assert server.wait_for_metric("fla_requests_waiting", 0) < SOON
    assert server.metric("fla_requests_running") == 1
    running.cancel()
    server.wait_for_metric("fla_requests_running", 0)


def test_cancelling_during_a_long_prompt(server):
    ids = [5] * 100000
    call = server.inference.Generate.future(request(ids=ids, max_new_tokens=1))
    server.wait_for_metric("fla_state_slots_used", 1)
    call.cancel()
    assert server.wait_for_metric("fla_state_slots_used", 0) < SOON


@pytest.mark.parametrize("streamed", [False, True])
def test_a_deadline_ends_the_request(server, streamed):
    before = finished(server, "deadline") + finished(server, "cancelled")
    begin = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        if streamed:
            list(server.inference.GenerateStream(request(**LONG), timeout=0.5))
        else:
            server.inference.Generate(request(**LONG), timeout=0.5)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0.4 < time.monotonic() - begin < 0.5 + SOON
    assert server.wait_for_metric("fla_state_slots_used", 0) < SOON
    # gRPC's own timer and the engine's clock race; either may be the first to see it.
    begin = time.monotonic()
    while finished(server, "deadline") + finished(server, "cancelled") != before + 1:
        assert time.monotonic() - begin < SOON
        time.sleep(0.01)


def test_a_deadline_passes_in_the_queue(start_server):
    server = start_server(slots=1)
    running = server.inference.GenerateStream(request(**LONG))
    next(running)
    with pytest.raises(grpc.RpcError) as caught:
        server.inference.Generate(request(**LONG), timeout=0.3)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert server.wait_for_metric("fla_requests_waiting", 0) < SOON
    running.cancel()
    server.wait_for_metric("fla_requests_running", 0)


def test_a_client_that_dies_frees_its_slots(server):
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
from server_process import *
channel = grpc.insecure_channel({server.address!r})
streams = [inference_pb2_grpc.InferenceStub(channel).GenerateStream(request(**{LONG!r}))
           for _ in range(4)]
for stream in streams:
    next(stream)
print("streaming", flush=True)
time.sleep(600)
"""
    client = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert client.stdout.readline() == "streaming\n"
        assert server.metric("fla_state_slots_used") == 4
    finally:
        client.kill()
        client.wait()
    assert server.wait_for_metric("fla_state_slots_used", 0) < SOON
