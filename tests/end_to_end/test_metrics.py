"""After a scripted load the metrics say what the clients saw, token for token."""
import json
import math
import threading
import urllib.request

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fla.v1 import control_pb2
from server_process import demo_config, request


class Seen:
    """What the clients were told, added up."""

    def __init__(self):
        self.lock = threading.Lock()
        self.requests = {"stop": 0, "length": 0}
        self.prompt_tokens = self.generated = self.gaps = self.first_tokens = 0
        self.timings = []

    def add(self, response, prompt_tokens, finishes, tokens):
        """One answer: its finish reasons and the tokens of each choice, as they came."""
        assert response.usage.prompt_tokens == prompt_tokens
        assert response.usage.completion_tokens == sum(tokens)
        with self.lock:
            for finish in finishes:
                self.requests[{1: "stop", 2: "length"}[finish.reason]] += 1
            self.prompt_tokens += prompt_tokens * len(tokens)
            self.generated += sum(tokens)
            self.gaps += sum(max(0, count - 1) for count in tokens)
            self.first_tokens += sum(count > 0 for count in tokens)
            if len(tokens) == 1 and tokens[0] > 0:
                self.timings.append(response.timings)


def run_client(server, seen, number):
    """Ten answers of one client, unary and streamed."""
    for i in range(10):
        seed = 100 * number + i
        ids = [(7 * seed + k) % 4000 + 1 for k in range(1 + seed % 40)]
        fields = dict(ids=ids, seed=seed, max_new_tokens=(seed * 5) % 24, n=1 + (i == 5) * 2,
                      ignore_eos=i % 3 == 0, stop_strings=["e"] if i % 3 == 1 else [])
        if fields["max_new_tokens"] == 0:
            fields["prompt_logprobs"] = 0  # scoring only: a request without tokens
        if i % 2:
            response = server.generate(**fields)
            seen.add(response, len(ids), [choice.finish for choice in response.choices],
                     [len(choice.token_ids) for choice in response.choices])
        else:
            tokens, finishes = [0] * fields["n"], []
            for message in server.inference.GenerateStream(request(**fields), timeout=120):
                tokens[message.delta.index] += len(message.delta.token_ids)
                if message.delta.HasField("finish"):
                    finishes.append(message.delta.finish)
            seen.add(message, len(ids), finishes, tokens)


def test_counters_histograms_and_gauges_are_what_the_clients_saw(start_server):
    server = start_server(slots=3)
    seen = Seen()
    clients = [threading.Thread(target=run_client, args=(server, seen, number))
               for number in range(6)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    metrics = server.metrics()

    def value(name, **labels):
        return metrics[(f"fla_{name}", tuple(sorted(labels.items())))]

    total = sum(seen.requests.values())
    assert total == 6 * 12 and seen.generated > 300 and len(seen.timings) > 40
    for reason in ("stop", "length", "cancelled", "deadline", "embedded", "unavailable", "error"):
        assert value("requests_total", finish_reason=reason) == seen.requests.get(reason, 0), reason
    assert value("prompt_tokens_total") == seen.prompt_tokens
    assert value("generation_tokens_total") == seen.generated
    assert value("time_to_first_token_seconds_count") == seen.first_tokens
    assert value("inter_token_latency_seconds_count") == seen.gaps
    for per_request in ("e2e_request_latency_seconds", "request_queue_time_seconds",
                        "request_prompt_tokens", "request_generation_tokens"):
        assert value(f"{per_request}_count") == total, per_request
    for per_answer in ("request_prefill_time_seconds", "request_decode_time_seconds"):
        assert value(f"{per_answer}_count") == seen.first_tokens, per_answer
    assert value("request_prompt_tokens_sum") == seen.prompt_tokens
    assert value("request_generation_tokens_sum") == seen.generated
    # A step feeds prompt tokens, and each token that came but the last. A GPU's next step is
    # launched before it is known who has ended: at most one row more a request.
    unknown = 0 if server.models()[0].device == "cpu" else total
    assert 0 <= value("batch_decode_sequences_sum") - seen.gaps <= unknown
    assert 0 <= value("batch_tokens_sum") - seen.prompt_tokens - seen.gaps <= unknown
    assert 0 <= value("batch_tokens_count") - value("step_seconds_count") <= min(1, unknown)
    # One between any two steps, but where there was nothing to do.
    assert 0 < value("device_gap_seconds_count") < value("batch_tokens_count")
    for gauge in ("requests_running", "requests_waiting", "state_slots_used"):
        assert value(gauge) == 0, gauge
    assert value("state_slots_total") == 3
    assert value("requests_waiting_limit") == 256
    assert value("model_serving") == 1
    assert value("state_nonfinite_total") == 0


def test_times_are_those_that_the_clients_were_told(start_server):
    server = start_server()
    told = [server.generate(text="Once upon", seed=seed, max_new_tokens=12, ignore_eos=True).timings
            for seed in range(8)]
    for name, field in (("e2e_request_latency_seconds", "total_seconds"),
                        ("request_queue_time_seconds", "queue_seconds"),
                        ("request_prefill_time_seconds", "prefill_seconds"),
                        ("request_decode_time_seconds", "decode_seconds"),
                        ("time_to_first_token_seconds", "first_token_seconds")):
        times = [getattr(timings, field) for timings in told]
        assert math.isclose(server.metric(f"fla_{name}_sum"), sum(times), rel_tol=1e-6), name
        # Each is in its bucket.
        for key, count in server.metrics().items():
            if key[0] == f"fla_{name}_bucket":
                bound = float(dict(key[1])["le"])
                assert count == sum(time <= bound for time in times), (name, bound)


def test_what_did_not_end_well_is_counted_by_its_end(start_server):
    server = start_server(slots=1, limits={"max_queued_requests": 2}, log={"format": "json"})
    long = dict(text="Once upon a time", ignore_eos=True, max_new_tokens=30000)
    holder = server.inference.GenerateStream(request(**long))
    next(holder)
    # One cancelled in the queue, one given up there, one that the queue does not take.
    queued = server.inference.GenerateStream(request(**long))
    server.wait_for_metric("fla_requests_waiting", 1)
    with pytest.raises(grpc.RpcError):
        server.inference.Generate(request(**long), timeout=0.3)
    server.wait_for_metric("fla_requests_waiting", 1)
    with pytest.raises(grpc.RpcError):
        server.generate(**long, n=2)
    with pytest.raises(grpc.RpcError):
        server.generate(text="a", temperature=-1)
    queued.cancel()
    server.wait_for_metric("fla_requests_waiting", 0)
    holder.cancel()
    server.wait_for_metric("fla_requests_running", 0)
    metrics = server.metrics()
    # The server learns of a client's deadline from its own clock or from the client, as it comes.
    ended = {reason: metrics[("fla_requests_total", (("finish_reason", reason),))]
             for reason in ("cancelled", "deadline", "stop", "length", "unavailable", "error")}
    assert ended["cancelled"] + ended["deadline"] == 3 and ended["cancelled"] >= 2
    assert sum(ended.values()) == 3
    assert metrics[("fla_admission_rejections_total", (("reason", "queue_full"),))] == 2
    assert metrics[("fla_admission_rejections_total", (("reason", "invalid"),))] == 1
    assert metrics[("fla_requests_waiting", ())] == metrics[("fla_state_slots_used", ())] == 0
    assert metrics[("fla_e2e_request_latency_seconds_count", ())] == 3
    # What the cancelled one had generated is in its log line and in the counter.
    server.process.terminate()
    server.process.wait(30)
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    logged = sum(line["completion_tokens"] for line in lines if line.get("event") == "request")
    assert metrics[("fla_generation_tokens_total", ())] == logged > 0


def test_every_family_has_help_a_base_unit_and_bounded_labels(start_server):
    server = start_server(metrics_vllm_names=True)
    server.generate(text="a", max_new_tokens=2)
    with urllib.request.urlopen(server.metrics_url) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert {"vllm:num_requests_waiting", "fla_requests_waiting", "process_open_fds"} <= set(names)
    (build,) = next(family for family in families if family.name == "fla_build_info").samples
    info = server.control.GetServerInfo(control_pb2.GetServerInfoRequest())
    assert build.labels == {"version": info.version, "backends": info.build} and build.value == 1
    allowed = {"model", "model_name", "finish_reason", "finished_reason", "reason", "result", "kind",
               "device", "le", "model_type", "dtype", "parameters", "version", "backends",
               "gpu", "name", "uuid"}
    for family in families:
        if family.name.startswith("exposer_"):
            continue  # the endpoint's own, from prometheus-cpp
        assert family.documentation, family.name
        assert not family.name.endswith(("_ms", "_milliseconds", "_mb", "_percent")), family.name
        for sample in family.samples:
            assert sample.labels.keys() <= allowed, sample


def test_memory_is_told_by_kind(start_server):
    server = start_server(slots=5)
    server.generate(text="Once upon a time", max_new_tokens=4)
    (model,) = server.models()
    kinds = {dict(labels)["kind"]: value for (name, labels), value in server.metrics().items()
             if name == "fla_device_memory_bytes"}
    assert kinds["weights"] == model.weight_bytes
    assert kinds["states"] >= 5 * model.state_bytes_per_slot
    assert kinds["states"] < 5.1 * model.state_bytes_per_slot
    assert 0 < kinds["workspace"] < 1 << 30


def test_two_models_are_two_series(start_server):
    (demo,) = demo_config()["models"]
    server = start_server(models=[demo, {**demo, "name": "other"}])
    server.generate(model="other", text="a", max_new_tokens=3, ignore_eos=True)
    tokens = {}
    with urllib.request.urlopen(server.metrics_url) as answer:
        for family in text_string_to_metric_families(answer.read().decode()):
            for sample in family.samples:
                if sample.name == "fla_generation_tokens_total":
                    tokens[sample.labels["model"]] = sample.value
    assert tokens == {"demo": 0, "other": 3}
