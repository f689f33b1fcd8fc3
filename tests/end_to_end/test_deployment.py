"""The files in docker/ are what the tools that read them take."""
import copy
import json
import pathlib
import re
import shutil
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml
from grafana_foundation_sdk.models import (dashboard, heatmap, prometheus, stat, table, timeseries)

from server_process import CLI, ROOT
from typed_json import complaints

DOCKER = ROOT / "docker"
sys.path.insert(0, str(DOCKER))
import without_docker  # noqa: E402
TOOLS = pathlib.Path(sys.executable).parent  # programs that came with the requirements
DASHBOARDS = sorted((DOCKER / "grafana/dashboards").glob("*.json"))


def run(*command, **options):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True,
                            timeout=120, **options)
    assert result.returncode == 0, f"{command}:\n{result.stdout}{result.stderr}"
    return result.stdout


# Prometheus.

def test_promtool_takes_the_rules_and_their_unit_tests_pass():
    folder = DOCKER / "prometheus"
    run("promtool", "check", "config", folder / "prometheus.yml")
    out = run("promtool", "test", "rules", folder / "rules_test.yml")
    assert "SUCCESS" in out


def rule_files():
    return [yaml.safe_load(file.read_text()) for file in (DOCKER / "prometheus/rules").glob("*.yml")]


def test_every_alert_has_a_unit_test_in_which_it_fires_and_a_place_in_the_documentation():
    tested = yaml.safe_load((DOCKER / "prometheus/rules_test.yml").read_text())
    fired = {case["alertname"] for test in tested["tests"]
             for case in test.get("alert_rule_test", []) if case["exp_alerts"]}
    alerts = {rule["alert"] for file in rule_files() for group in file["groups"]
              for rule in group["rules"] if "alert" in rule}
    assert fired == alerts
    documented = (ROOT / "docs/operations.md").read_text()
    assert {alert for alert in alerts if f"`{alert}`" in documented} == alerts


# Grafana.

PANELS = {"timeseries": timeseries, "stat": stat, "heatmap": heatmap, "table": table}


def dashboard_complaints(text):
    """What Grafana's schema does not have: the dashboard, its panels' options and its queries."""
    made = json.loads(text)
    yield from complaints(made, dashboard.Dashboard)
    for panel in made["panels"]:
        if panel["type"] == "row":
            continue
        where = f"panel {panel['title']!r}"
        kind = PANELS[panel["type"]]
        yield from complaints(panel["options"], kind.Options, f"{where} options")
        custom = panel["fieldConfig"]["defaults"].get("custom")
        if custom is not None:
            yield from complaints(custom, kind.FieldConfig, f"{where} custom")
        for target in panel["targets"]:
            yield from complaints(target, prometheus.Dataquery, f"{where} query")


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_dashboards_keep_to_grafanas_schema(file):
    assert list(dashboard_complaints(file.read_text())) == []


@pytest.mark.parametrize("change, complaint", [
    (lambda d: d.update(refresh=5), "refresh"),
    (lambda d: d.update(colour="red"), "colour"),
    (lambda d: d["panels"][0].update(gridPos={"x": "0"}), "gridPos"),
    (lambda d: d["panels"][0]["targets"][0].update(expression="up"), "expression"),
    (lambda d: d["panels"][0]["options"].update(graphMode="areas"), "graphMode"),
    (lambda d: d["panels"][0]["fieldConfig"]["defaults"].update(unit=3), "unit"),
])
def test_the_schema_check_bites(change, complaint):
    made = json.loads((DOCKER / "grafana/dashboards/service.json").read_text())
    change(made)
    assert any(complaint in line for line in dashboard_complaints(json.dumps(made)))


def test_grafana_finds_the_data_source_and_the_dashboards():
    compose = yaml.safe_load((DOCKER / "docker-compose.yml").read_text())
    grafana_service = compose["services"]["grafana"]
    mounts = dict(volume.split(":")[:2][::-1] for volume in grafana_service["volumes"])
    provider, = yaml.safe_load(
        (DOCKER / "grafana/provisioning/dashboards/fla-server.yml").read_text())["providers"]
    folder = (DOCKER / mounts[provider["options"]["path"]]).resolve()
    home = pathlib.PurePath(
        grafana_service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.parent == pathlib.PurePath(provider["options"]["path"])
    assert (folder / home.name).is_file()
    source, = yaml.safe_load(
        (DOCKER / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["isDefault"] and source["url"] == "http://prometheus:9090"
    assert "prometheus" in compose["services"]


# Docker.

@pytest.mark.parametrize("profile, server", [("cpu", "server-cpu"), ("gpu", "server-gpu")])
def test_docker_compose_takes_the_file(profile, server):
    out = run(TOOLS / "docker-compose", "-f", DOCKER / "docker-compose.yml", "--profile", profile,
              "config", "--format", "json")
    services = json.loads(out)["services"]
    assert services.keys() == {server, "prometheus", "grafana"}
    assert services[server]["build"]["target"] == ("cuda" if profile == "gpu" else "cpu")
    scraped, = yaml.safe_load(
        (DOCKER / "prometheus/prometheus.yml").read_text())["scrape_configs"][0]["static_configs"]
    host, port = scraped["targets"][0].split(":")
    assert host in services[server]["networks"]["default"]["aliases"]
    assert int(port) in [one["target"] for one in services[server]["ports"]]
    for volume in [v for service in services.values() for v in service.get("volumes", [])]:
        assert volume["type"] == "volume" or pathlib.Path(volume["source"]).exists(), volume


def test_the_load_is_one_that_the_client_takes(server):
    compose = yaml.safe_load((DOCKER / "docker-compose.yml").read_text())
    load = compose["services"]["load"]
    program, *arguments = load["entrypoint"] + load["command"]
    assert program == "fla-cli"
    arguments[arguments.index("server:50051")] = server.address
    arguments[arguments.index("86400")] = "1"
    assert "requests/s" in run(CLI, *arguments)


def test_hadolint_takes_the_dockerfile():
    run(TOOLS / "hadolint", DOCKER / "Dockerfile")


def test_the_dockerfile_copies_what_there_is():
    text = (DOCKER / "Dockerfile").read_text()
    sources = re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE)
    assert sources and all((ROOT / source).exists() for source in sources)


def test_what_tries_the_dockerfile_without_docker_reads_it():
    stages = without_docker.parse((DOCKER / "Dockerfile").read_text())
    assert list(stages) == ["build-cpu", "build-cuda", "cpu", "cuda"]
    for image, instructions in stages.values():
        assert any(part in image for part in without_docker.BASES) and "$" not in image
        assert {word for word, _ in instructions} <= without_docker.INSTRUCTIONS
    configure_and_build, = (text for word, text in stages["build-cuda"][1] if "cmake" in text)
    assert configure_and_build.split("&&")[1].split() == [
        "cmake", "--build", "--preset", "cuda", "--target", "fla-server", "fla-cli"]


# Kubernetes.

@pytest.fixture(params=["cpu", "gpu"])
def manifests(request):
    folder = DOCKER / "kubernetes" / request.param
    if shutil.which("kubectl"):
        return list(yaml.safe_load_all(run("kubectl", "kustomize", folder)))
    if request.param == "gpu":
        pytest.skip("no kubectl to apply the overlay's patch with")
    resources = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    return [yaml.safe_load((folder / resource).read_text()) for resource in resources]


def test_kubernetes_schemas_take_the_manifests(manifests):
    for manifest in manifests:
        if manifest["apiVersion"].startswith("monitoring.coreos.com/"):
            continue  # the operator's own kinds
        kubernetes_validate.validate(manifest, "1.32", strict=True)


def test_the_manifest_check_bites(manifests):
    deployment = copy.deepcopy(next(m for m in manifests if m["kind"] == "Deployment"))
    deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.32", strict=True)


def test_the_manifests_fit_together(manifests):
    by_kind = {manifest["kind"]: manifest for manifest in manifests}
    pod = by_kind["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    container, = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for port in by_kind["Service"]["spec"]["ports"]:
        assert ports[port["targetPort"]] == port["port"]
    assert by_kind["Service"]["spec"]["selector"] == labels
    monitor = by_kind["ServiceMonitor"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= by_kind["Service"]["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] in [p["name"] for p in by_kind["Service"]["spec"]["ports"]]
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert volumes["config"]["configMap"]["name"] == by_kind["ConfigMap"]["metadata"]["name"]
    claim = by_kind["PersistentVolumeClaim"]["metadata"]["name"]
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == claim
    (file, text), = by_kind["ConfigMap"]["data"].items()
    assert container["args"] == ["--config", f"/etc/fla-server/{file}"]
    drain = json.loads(text)["drain_timeout_seconds"]
    assert pod["spec"]["terminationGracePeriodSeconds"] > drain + 5


def test_the_operators_rules_are_those_of_prometheus():
    made = run(sys.executable, DOCKER / "kubernetes/make_prometheusrule.py")
    assert made == (DOCKER / "kubernetes/cpu/prometheusrule.yaml").read_text()
    groups = yaml.safe_load(made)["spec"]["groups"]
    assert sorted(g["name"] for g in groups) == sorted(
        g["name"] for file in rule_files() for g in file["groups"])


# The configs of both.

def test_the_server_takes_the_configs(tmp_path):
    from server_process import SERVER
    configmap = yaml.safe_load((DOCKER / "kubernetes/cpu/configmap.yaml").read_text())
    for i, text in enumerate([(DOCKER / "config/server.json").read_text(),
                              configmap["data"]["server.json"]]):
        config = json.loads(text)
        assert config["models"][0]["path"] == "/opt/fla-server/demo"  # where the image has it
        config["models"][0]["path"] = str(ROOT / "demo/model")
        file = tmp_path / f"{i}.json"
        file.write_text(json.dumps(config))
        run(SERVER, "--check-config", file)
