"""Every panel of every dashboard has data, every rule evaluates, on a real Prometheus."""
import json
import math
import os
import subprocess
import sys
import threading
import time

import grpc
import pytest

from prometheus_process import PrometheusProcess
from server_process import ROOT, ServerProcess, request

DASHBOARDS = ROOT / "docker/grafana/dashboards"
FAKE_NVML = os.environ.get("FLA_FAKE_NVML_FOLDER", str(ROOT / "build/cpu/tests/kernels/fake_nvml"))


def panels():
    for file in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel.get("targets", []):
                yield pytest.param(target["expr"], id=f"{file.stem}: {panel['title']}: "
                                                      f"{target['refId']}")


def drive(server, stop):
    """Prompts and answers of many lengths, refusals and cancellations, until `stop`."""
    def stream(seed):
        while not stop.is_set():
            call = server.inference.GenerateStream(
                request(text="Once upon a time there was " * (1 + seed % 7), seed=seed,
                        ignore_eos=seed % 2 == 0, max_new_tokens=8 + 16 * (seed % 5)))
            try:
                for message in call:
                    if seed % 11 == 0:
                        call.cancel()
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
                    time.sleep(0.05)
            seed += 12

    def refused():
        while not stop.is_set():
            with pytest.raises(grpc.RpcError):
                server.generate(text="a", temperature=-1)
            time.sleep(0.2)

    threads = [threading.Thread(target=stream, args=(seed,)) for seed in range(12)]
    threads.append(threading.Thread(target=refused))
    for thread in threads:
        thread.start()
    return threads


@pytest.fixture(scope="module")
def observed():
    """(prometheus, begin, end) of some seconds of load, on a machine whose GPUs are played."""
    environment = {**os.environ, "LD_LIBRARY_PATH": FAKE_NVML}
    with ServerProcess(slots=4, limits={"max_queued_requests": 4}, environment=environment) as server, \
            PrometheusProcess(server.metrics_url.split("/")[2]) as prometheus:
        stop = threading.Event()
        begin = time.time()
        threads = drive(server, stop)
        time.sleep(12)
        stop.set()
        for thread in threads:
            thread.join()
        yield prometheus, begin, time.time()


@pytest.mark.slow
@pytest.mark.parametrize("expr", list(panels()))
def test_every_panel_has_data(observed, expr):
    prometheus, begin, end = observed
    expr = expr.replace("$__rate_interval", "4s").replace("$model", ".*")
    assert "$" not in expr
    series = prometheus.query_range(expr, begin, end)
    assert series, "no series"
    # A panel that never shows a number is as empty as one without series.
    assert any(math.isfinite(value) for _, values in series for _, value in values)


@pytest.mark.slow
def test_every_rule_evaluates(observed):
    prometheus, begin, end = observed
    rules = prometheus.rules()
    assert {rule["health"] for rule in rules} == {"ok"}, rules
    recording = [rule["name"] for rule in rules if rule["type"] == "recording"]
    assert len(recording) == 8 and len(rules) - len(recording) == 12
    for name in recording:
        (_, values), = prometheus.query_range(name, begin, end)
        assert any(0 <= value <= 1 for _, value in values), name


@pytest.mark.slow
def test_the_load_was_seen_as_it_was(observed):
    prometheus, _, _ = observed
    reasons = dict((labels["reason"], value)
                   for labels, value in prometheus.query("fla_admission_rejections_total"))
    assert reasons["invalid"] > 5 and reasons["queue_full"] > 0
    finished = dict((labels["finish_reason"], value)
                    for labels, value in prometheus.query("fla_requests_total"))
    assert finished["length"] > 0 and finished["cancelled"] > 0 and finished["error"] == 0
    (_, power), = prometheus.query("fla_gpu_power_watts")
    assert power == 412.5


def test_the_dashboards_are_what_the_script_makes(tmp_path):
    subprocess.run([sys.executable, ROOT / "docker/grafana/make_dashboards.py", tmp_path],
                   check=True)
    made = {file.name: file.read_text() for file in tmp_path.glob("*.json")}
    assert made == {file.name: file.read_text() for file in DASHBOARDS.glob("*.json")}


def test_no_two_dashboards_or_panels_share_an_id():
    dashboards = [json.loads(file.read_text()) for file in DASHBOARDS.glob("*.json")]
    assert len({one["uid"] for one in dashboards}) == len(dashboards) == 3
    for one in dashboards:
        ids = [panel["id"] for panel in one["panels"]]
        assert len(set(ids)) == len(ids)
        for panel in one["panels"]:
            grid = panel["gridPos"]
            assert 0 <= grid["x"] and grid["x"] + grid["w"] <= 24, panel["title"]
            if panel["type"] != "row":
                assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"]
