"""Starting, stopping, watching."""
import json
import re
import signal
import subprocess
import time

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase)
from safetensors.numpy import load_file, save_file

from checkpoints import copy_golden
from fla.v1 import control_pb2, inference_pb2_grpc
from server_process import SERVER, demo_config, request

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
LONG = dict(text="Once upon a time", ignore_eos=True, max_new_tokens=30000)


def health_of(server, service=""):
    stub = health_pb2_grpc.HealthStub(server.channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status


def run(*arguments):
    return subprocess.run([SERVER, *map(str, arguments)], capture_output=True, text=True,
                          timeout=120)


def test_health(server):
    for service in ("", "fla.v1.Inference", "fla.v1.Control"):
        assert health_of(server, service) == SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health_of(server, "fla.v1.Nothing")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection(server):
    database = ProtoReflectionDescriptorDatabase(server.channel)
    assert {"fla.v1.Inference", "fla.v1.Control", "grpc.health.v1.Health"} <= set(
        database.get_services())
    pool = DescriptorPool(database)
    methods = {m.name for m in pool.FindServiceByName("fla.v1.Inference").methods}
    assert methods == {"Generate", "GenerateStream", "Embed", "Tokenize", "Detokenize"}
    assert pool.FindServiceByName("grpc.health.v1.Health").methods_by_name["Check"]


def test_server_info_and_models(server):
    info = server.control.GetServerInfo(control_pb2.GetServerInfoRequest())
    assert re.fullmatch(r"\d+\.\d+\.\d+", info.version)
    assert info.build in ("cpu", "cpu+cuda")
    assert info.default_model == "demo" and info.uptime_seconds > 0
    (model,) = server.control.ListModels(control_pb2.ListModelsRequest()).models
    assert (model.name, model.model_type, model.dtype) == ("demo", "kda", "f32")
    assert (model.vocab_size, model.hidden_size, model.num_layers) == (4096, 384, 7)
    assert model.parameters == 14707306
    assert model.slots_total == server.config["models"][0]["slots"]
    assert list(model.eos_token_ids) == [0]
    # Heads of 64 x 64 and the last three inputs of three convolutions, in f32, over the layers.
    assert model.state_bytes_per_slot >= 7 * 4 * (6 * 64 * 64 + 3 * 384 * 3)
    assert model.weight_bytes > 14707306


def test_sigterm_drains(start_server):
    server = start_server(drain_timeout_seconds=600)  # for sanitizers on busy machines
    stream = server.inference.GenerateStream(
        request(text="Once", ignore_eos=True, max_new_tokens=1500, temperature=0))
    next(stream)
    server.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 10
    while health_of(server) != NOT_SERVING:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    server.wait_for_metric("fla_model_serving", 0)  # health comes first
    with pytest.raises(grpc.RpcError) as caught:
        server.generate(text="a")
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    messages = list(stream)  # goes on to its end
    assert messages[-1].usage.completion_tokens == 1500
    assert server.process.wait(30) == 0
    log = server.log.read_text()
    assert "drained" in log and "cut" not in log


def test_sigterm_waits_for_a_client_that_reads_slowly(start_server):
    server = start_server(drain_timeout_seconds=600)
    with grpc.insecure_channel(server.address, [("grpc.http2.bdp_probe", 0)]) as channel:
        # More than the connection takes while the client does not read.
        stream = inference_pb2_grpc.InferenceStub(channel).GenerateStream(
            request(text="Once", ignore_eos=True, max_new_tokens=600, logprobs=20))
        next(stream)
        server.wait_for_metric("fla_requests_running", 0, seconds=120)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(3)
        assert list(stream)[-1].usage.completion_tokens == 600
    assert server.process.wait(30) == 0
    assert "cut" not in server.log.read_text()


def test_sigint_stops_an_idle_server_at_once(start_server):
    server = start_server()
    begin = time.monotonic()
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 0
    assert time.monotonic() - begin < 10


def test_the_drain_timeout_cuts_off(start_server):
    server = start_server(drain_timeout_seconds=0.3)
    stream = server.inference.GenerateStream(request(**LONG))
    next(stream)
    server.process.send_signal(signal.SIGTERM)
    with pytest.raises(grpc.RpcError) as caught:
        list(stream)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert server.process.wait(30) == 0
    assert "cut requests off" in server.log.read_text()


def test_a_log_that_nobody_reads_any_more(tmp_path):
    file, port = tmp_path / "config.json", tmp_path / "port"
    config = demo_config()
    del config["metrics_listen"]  # the endpoint's library would ignore SIGPIPE
    file.write_text(json.dumps(config))
    process = subprocess.Popen([SERVER, "--config", file, "--port-file", port],
                               stderr=subprocess.PIPE)
    while not port.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.stderr.close()
    with grpc.insecure_channel(f"127.0.0.1:{port.read_text().strip()}") as channel:
        inference = inference_pb2_grpc.InferenceStub(channel)
        for _ in range(3):
            inference.Generate(request(text="a", max_new_tokens=1), timeout=60)
    process.terminate()
    assert process.wait(30) == 0


def test_a_second_signal_ends_at_once(tmp_path):
    from server_process import ServerProcess
    server = ServerProcess()
    server.__enter__()
    stream = server.inference.GenerateStream(request(**LONG))
    next(stream)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert server.process.poll() is None
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(5) == 1
    server.channel.close()


def test_the_log_has_a_line_a_request_and_no_prompt(start_server):
    server = start_server()
    server.generate(text="A secret about badgers", request_id="abc\n12", max_new_tokens=4,
                    ignore_eos=True)
    with pytest.raises(grpc.RpcError):
        server.generate(text="A secret about badgers", temperature=-1)
    server.process.terminate()
    server.process.wait(30)
    log = server.log.read_text()
    lines = [line for line in log.splitlines() if " request id=" in line]
    assert len(lines) == 2
    assert r'client_id="abc\n12" model=demo choices=1' in lines[0]
    assert "completion_tokens=4 finish=length queue=" in lines[0]
    assert "status=INVALID_ARGUMENT" in lines[1] and "sampling.temperature" in lines[1]
    assert "badger" not in log


def test_the_log_as_json_lines_with_traces(start_server):
    server = start_server(log={"format": "json", "prompts": True})
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    response = server.inference.Generate(
        request(text="A note about badgers", request_id="abc", max_new_tokens=4, ignore_eos=True,
                n=2),
        metadata=[("traceparent", f"00-{trace}-{span}-01")], timeout=60)
    server.generate(ids=[5, 6, 7], max_new_tokens=1)
    with pytest.raises(grpc.RpcError):
        server.generate(text="a", temperature=-1)
    server.process.terminate()
    server.process.wait(30)
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert all({"time", "level"} <= line.keys() for line in lines)
    traced, by_ids, refused = [line for line in lines if line.get("event") == "request"]
    assert traced["client_id"] == "abc" and traced["model"] == "demo"
    assert (traced["trace_id"], traced["parent_id"], traced["sampled"]) == (trace, span, True)
    assert traced["prompt"] == "A note about badgers" and by_ids["prompt"] == "5 6 7"
    assert traced["finish_reasons"] == ["length", "length"]
    # The client was told the same.
    assert traced["completion_tokens"] == response.usage.completion_tokens == 8
    for span_name in ("queue", "prefill", "decode", "first_token", "longest_gap", "total"):
        key = f"{span_name}_seconds"
        assert traced[key] == getattr(response.timings, key), key
    assert 0 < response.timings.longest_gap_seconds <= response.timings.decode_seconds
    assert "trace_id" not in by_ids
    assert refused["status"] == "INVALID_ARGUMENT" and "temperature" in refused["message"]


def test_check_config(tmp_path):
    good = tmp_path / "good.json"
    good.write_text(json.dumps(demo_config()))
    result = run("--check-config", good)
    assert (result.returncode, result.stdout) == (0, f"{good}: OK\n")

    wrong_key = tmp_path / "key.json"
    wrong_key.write_text(json.dumps(demo_config(limits={"max_m": 1})))
    no_model = tmp_path / "model.json"
    config = demo_config()
    config["models"][0]["path"] = str(tmp_path / "nowhere")
    no_model.write_text(json.dumps(config))
    small_batches = tmp_path / "batches.json"
    config = demo_config()
    del config["models"][0]["max_batch_tokens"]
    config["models"][0].update(device="cpu", max_prefill_tokens=100)  # the default is 512
    small_batches.write_text(json.dumps(config))
    for file, words in [(wrong_key, "limits.max_m"), (no_model, "models[0]"),
                        (small_batches, "max_prefill_tokens: wanted at least max_batch_tokens (512)"),
                        (tmp_path / "absent.json", "absent.json")]:
        for flag in ("--check-config", "--config"):
            result = run(flag, file)
            assert result.returncode == 1
            if flag == "--check-config" or words != "models[0]":
                assert words in result.stderr


def test_check_config_looks_at_the_tensors(tmp_path):
    folder = copy_golden("gla", tmp_path / "gla")
    tensors = load_file(folder / "model.safetensors")
    norm = tensors.pop("model.norm.weight")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"models": [{"name": "m", "path": str(folder)}]}))
    for more, words in [({}, "norm.weight of shape [64] is missing"),
                        ({"model.norm.weight": norm[:32]}, "norm.weight: wanted shape [64], got"),
                        ({"model.norm.weight": norm, "model.more": norm}, "model.more")]:
        save_file({**tensors, **more}, folder / "model.safetensors")
        result = run("--check-config", config)
        assert result.returncode == 1 and words in result.stderr, (words, result)
    save_file({**tensors, "model.norm.weight": norm}, folder / "model.safetensors")
    assert run("--check-config", config).returncode == 0


def test_a_port_that_is_taken_is_an_error(server, tmp_path):
    for key, address in [("listen", server.address),
                         ("metrics_listen", server.metrics_url.split("/")[2])]:
        file = tmp_path / f"{key}.json"
        file.write_text(json.dumps(demo_config(**{key: address})))
        result = run("--config", file)
        assert result.returncode == 1
        assert f"{key}: cannot listen on {address}" in result.stderr
        assert "loading" not in result.stderr  # a model, first


def test_a_unix_socket_that_is_taken_is_an_error(tmp_path):
    socket = f"unix:{tmp_path / 'socket'}"
    file = tmp_path / "config.json"
    config = demo_config(listen=socket)
    del config["metrics_listen"]
    file.write_text(json.dumps(config))

    def serves():
        with grpc.insecure_channel(socket) as channel:
            grpc.channel_ready_future(channel).result(60)

    for end in (signal.SIGKILL, signal.SIGTERM):  # one that was killed leaves its socket there
        first = subprocess.Popen([SERVER, "--config", file], stderr=subprocess.DEVNULL)
        try:
            serves()
            second = run("--config", file)
            assert second.returncode == 1
            assert f"listen: cannot listen on {socket}: another server does" in second.stderr
            serves()
        finally:
            first.send_signal(end)
            first.wait(30)


def test_the_command_line(tmp_path):
    assert re.fullmatch(r"fla-server \d+\.\d+\.\d+ \(cpu(\+cuda)?\)\n", run("--version").stdout)
    assert run().returncode != 0
    assert run("--config", "a", "--check-config", "b").returncode != 0
    assert run("--nonsense").returncode != 0
