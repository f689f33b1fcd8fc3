"""Each alert fires in a fault that the test stages, and clears when the fault is over.

Prometheus evaluates the rules as they are shipped, sixty times faster: an hour is a minute.
"""
import json
import shutil
import signal
import struct
import threading
import time

import grpc
import pytest

from prometheus_process import PrometheusProcess
from server_process import ROOT, ServerProcess, demo_config, request

pytestmark = pytest.mark.slow
LONG = dict(text="Once upon a time", ignore_eos=True, max_new_tokens=30000)


BROKEN_TOKEN = 4000


def break_checkpoint(target):
    """The demonstration model with not-a-number in the embedding of one token.

    The head, which shares the embeddings, gets a copy of its own, so that the fault shows only
    where the token is read.
    """
    shutil.copytree(ROOT / "demo/model", target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    index = json.loads((target / "model.safetensors.index.json").read_text())
    file = target / index["weight_map"]["model.embeddings.weight"]
    data = bytearray(file.read_bytes())
    (header_length,) = struct.unpack_from("<Q", data)
    entry = json.loads(data[8:8 + header_length])["model.embeddings.weight"]
    begin, end = (8 + header_length + offset for offset in entry["data_offsets"])
    head = json.dumps({"lm_head.weight": {**entry, "data_offsets": [0, end - begin]}}).encode()
    (target / "head.safetensors").write_bytes(
        struct.pack("<Q", len(head)) + head + bytes(data[begin:end]))
    index["weight_map"]["lm_head.weight"] = "head.safetensors"
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    row = (end - begin) // entry["shape"][0]
    at = begin + BROKEN_TOKEN * row
    data[at:at + row] = b"\xff" * row  # a NaN in every float format
    file.write_bytes(data)


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """(server, prometheus): a model of one slot with a queue of four, and a broken one."""
    broken = tmp_path_factory.mktemp("models") / "broken"
    break_checkpoint(broken)
    models = [{**demo_config(slots=1)["models"][0]},
              {"name": "broken", "path": str(broken), "device": "cpu", "slots": 1}]
    with ServerProcess(models=models, limits={"max_queued_requests": 4}) as server, \
            PrometheusProcess(server.metrics_url.split("/")[2]) as prometheus:
        prometheus.wait_until(lambda: prometheus.query("up == 1"), "the first scrape")
        assert prometheus.firing() == set()
        yield server, prometheus


class Stream:
    """A long answer that is read as it comes."""

    def __init__(self, server, **fields):
        self.call = server.inference.GenerateStream(request(**{**LONG, **fields}))
        self.first = threading.Event()
        self.messages = 0
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self):
        try:
            for _ in self.call:
                self.messages += 1
                self.first.set()
        except grpc.RpcError as error:
            self.error = error
        self.first.set()

    def __enter__(self):
        assert self.first.wait(30)
        return self

    def __exit__(self, *_):
        self.call.cancel()
        self.thread.join()


def healthy_load(server, seconds):
    """Quick requests, one after the other."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        server.generate(text="a", ignore_eos=True, max_new_tokens=8)


def until_clear(server, prometheus, *names):
    """Good requests bring the shares of bad ones down."""
    deadline = time.monotonic() + 60
    while set(names) & prometheus.firing():
        assert time.monotonic() < deadline, prometheus.firing()
        healthy_load(server, 0.5)


def wait_for_messages(stream, count, seconds):
    """Until the stream has got as many more, or the time is over."""
    enough = stream.messages + count
    end = time.monotonic() + seconds
    while stream.messages < enough and time.monotonic() < end:
        time.sleep(0.0005)


def test_slow_steps():
    # A server of its own: quick tokens of the hour before (60 s here) would hide the slow ones.
    with ServerProcess(slots=1) as server, \
            PrometheusProcess(server.metrics_url.split("/")[2]) as prometheus:
        with Stream(server) as stream:
            # A processor that is taken away for 0.15 s after every second token: one in a few is
            # slow however fast the machine is.
            deadline = time.monotonic() + 100
            while not {"FlaTokensSlow", "FlaTokensSlowly"} <= prometheus.firing():
                assert time.monotonic() < deadline, prometheus.firing()
                for _ in range(20):
                    server.process.send_signal(signal.SIGSTOP)
                    time.sleep(0.15)
                    server.process.send_signal(signal.SIGCONT)
                    wait_for_messages(stream, 2, seconds=0.05)
        until_clear(server, prometheus, "FlaTokensSlow", "FlaTokensSlowly")


def test_a_full_queue(staged):
    server, prometheus = staged
    waiting = []
    refused = []

    def knock():
        while not done.is_set():
            with pytest.raises(grpc.RpcError) as caught:
                server.generate(text="a", max_new_tokens=1)
            refused.append(caught.value.code())
            time.sleep(0.1)

    done = threading.Event()
    with Stream(server):
        # Four wait for the only slot, and more knock.
        for _ in range(4):
            waiting.append(threading.Thread(target=server.generate,
                                            kwargs=dict(text="a", max_new_tokens=1)))
            waiting[-1].start()
        server.wait_for_metric("fla_requests_waiting", 4, model="demo")
        knocking = threading.Thread(target=knock)
        knocking.start()
        prometheus.wait_firing("FlaQueueSaturated", "FlaRequestsRejected")
        time.sleep(3)
        done.set()
        knocking.join()
    for thread in waiting:
        thread.join()
    assert set(refused) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    # Those that waited got their first token late.
    prometheus.wait_firing("FlaFirstTokenSlow", "FlaFirstTokenSlowly")
    until_clear(server, prometheus, "FlaQueueSaturated", "FlaRequestsRejected", "FlaFirstTokenSlow",
                "FlaFirstTokenSlowly")


def test_a_model_that_computes_nan(staged):
    server, prometheus = staged

    def fail():
        with pytest.raises(grpc.RpcError) as caught:
            server.generate(model="broken", ids=[5, BROKEN_TOKEN], max_new_tokens=4)
        assert caught.value.code() == grpc.StatusCode.INTERNAL
        return {"FlaNonFiniteStates", "FlaRequestsFailing"} <= prometheus.firing()

    prometheus.wait_until(fail, "alerts of non-finite states")
    prometheus.wait_clear("FlaNonFiniteStates", "FlaRequestsFailing")


def test_an_edit_that_is_refused(staged):
    server, prometheus = staged
    good = server.config_file.read_text()
    server.config_file.write_text(good[:len(good) // 2])
    prometheus.wait_firing("FlaConfigRefused")
    server.config_file.write_text(good)
    prometheus.wait_clear("FlaConfigRefused")


def test_a_version_that_cannot_be_loaded(staged, tmp_path):
    server, prometheus = staged
    good = server.config_file.read_text()
    shutil.copytree(ROOT / "demo/model", tmp_path / "truncated")
    shard = tmp_path / "truncated/model-00001-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:100000])
    config = json.loads(good)
    config["models"][0]["path"] = str(tmp_path / "truncated")
    server.config_file.write_text(json.dumps(config))
    prometheus.wait_firing("FlaSwapFailed")
    healthy_load(server, 0.5)  # by the old version
    server.config_file.write_text(good)
    prometheus.wait_clear("FlaSwapFailed", "FlaConfigRefused")


def test_a_drain_that_takes_long_then_a_server_that_is_gone(staged):
    server, prometheus = staged
    with Stream(server):
        server.process.send_signal(signal.SIGTERM)
        prometheus.wait_firing("FlaModelNotServing")
    assert server.process.wait(30) == 0
    prometheus.wait_firing("FlaServerDown")
    assert "FlaModelNotServing" not in prometheus.firing()
    with ServerProcess(metrics_listen=server.metrics_url.split("/")[2]) as again:
        prometheus.wait_clear("FlaServerDown")
        healthy_load(again, 1)
        assert prometheus.firing() == set()
