"""A fla-server of its own, on free ports, and stock gRPC stubs for it."""
import json
import os
import pathlib
import subprocess
import tempfile
import time
import urllib.request

import grpc
from prometheus_client.parser import text_string_to_metric_families

from fla.v1 import control_pb2, control_pb2_grpc, inference_pb2 as pb, inference_pb2_grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
SERVER = os.environ.get("FLA_SERVER", str(ROOT / "build/cpu/server/fla-server"))
CLI = os.environ.get("FLA_CLI", str(ROOT / "build/cpu/client/fla-cli"))
DEVICE = os.environ.get("FLA_TEST_DEVICE", "cpu")  # of the tests' models
START_SECONDS = 120  # under a sanitizer


def demo_config(slots=None, max_batch_tokens=None, limits=None, **others):
    """configs/demo.json on free ports, with changes."""
    config = json.loads((ROOT / "configs/demo.json").read_text())
    config["listen"] = config["metrics_listen"] = "127.0.0.1:0"
    model = config["models"][0]
    model["path"] = str(ROOT / "configs" / model["path"])
    model["device"] = DEVICE
    if slots is not None:
        model["slots"] = slots
    if max_batch_tokens is not None:
        model["max_batch_tokens"] = max_batch_tokens
    config["limits"].update(limits or {})
    config.update(others)
    return config


class ServerProcess:
    def __init__(self, environment=None, before_start=None, **changes):
        self.config = demo_config(**changes)
        self.environment = environment
        self.before_start = before_start  # run in the server's process

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="fla-server-")
        folder = pathlib.Path(self._folder.name)
        self.config_file = folder / "config.json"
        self.config_file.write_text(json.dumps(self.config))
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [SERVER, "--config", self.config_file, "--port-file", folder / "port",
                 "--metrics-port-file", folder / "metrics-port"], stderr=log,
                env=self.environment, preexec_fn=self.before_start)
        deadline = time.monotonic() + START_SECONDS
        while not (folder / "port").exists():
            assert self.process.poll() is None, f"the server ended:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"no server yet:\n{self.log.read_text()}"
            time.sleep(0.02)
        self.address = f"127.0.0.1:{(folder / 'port').read_text().strip()}"
        metrics_port = int((folder / "metrics-port").read_text())
        self.metrics_url = f"http://127.0.0.1:{metrics_port}/metrics"
        self.channel = grpc.insecure_channel(
            self.address, [("grpc.max_receive_message_length", -1)])
        self.inference = inference_pb2_grpc.InferenceStub(self.channel)
        self.control = control_pb2_grpc.ControlStub(self.channel)
        return self

    def __exit__(self, *_):
        self.channel.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
        code = self.process.wait()
        log = self.log.read_text()
        self._folder.cleanup()
        assert code == 0, f"the server ended with {code}:\n{log}"

    # Requests.

    def generate(self, **fields):
        return self.inference.Generate(request(**fields), timeout=120)

    def stream(self, **fields):
        """All messages of a stream."""
        return list(self.inference.GenerateStream(request(**fields), timeout=120))

    def tokenize(self, text, **fields):
        return list(self.inference.Tokenize(pb.TokenizeRequest(text=text, **fields)).ids)

    def detokenize(self, ids, **fields):
        return self.inference.Detokenize(pb.DetokenizeRequest(ids=ids, **fields)).text

    def models(self):
        """What ListModels shows."""
        return self.control.ListModels(control_pb2.ListModelsRequest()).models

    # Observations.

    def metrics(self, model=None):
        """{(name, sorted labels but model): value}, of one model if there are several"""
        with urllib.request.urlopen(self.metrics_url) as answer:
            text = answer.read().decode()
        return {(s.name, tuple(sorted((k, v) for k, v in s.labels.items() if k != "model"))): s.value
                for family in text_string_to_metric_families(text) for s in family.samples
                if model is None or s.labels.get("model", model) == model}

    def metric(self, name, model=None, **labels):
        return self.metrics(model)[(name, tuple(sorted(labels.items())))]

    def model_metric(self, name, model, **labels):
        with urllib.request.urlopen(self.metrics_url) as answer:
            text = answer.read().decode()
        return sum(s.value for family in text_string_to_metric_families(text)
                   for s in family.samples
                   if s.name == name and {"model": model, **labels}.items() <= s.labels.items())

    def wait_for_metric(self, name, value, seconds=30, **labels):
        """The seconds that it took."""
        begin = time.monotonic()
        while (seen := self.metric(name, **labels)) != value:
            assert time.monotonic() - begin < seconds, f"{name} is {seen}, wanted {value}"
            time.sleep(0.01)
        return time.monotonic() - begin


def request(ids=None, temperature=None, seed=None, top_k=None, top_p=None, logit_bias=None,
            **fields):
    """A GenerateRequest; sampling fields are lifted to the top."""
    sampling = {k: v for k, v in dict(temperature=temperature, seed=seed, top_k=top_k, top_p=top_p,
                                      logit_bias=logit_bias).items() if v is not None}
    if ids is not None:
        fields["token_ids"] = pb.TokenIds(ids=ids)
    return pb.GenerateRequest(sampling=pb.SamplingParams(**sampling), **fields)
