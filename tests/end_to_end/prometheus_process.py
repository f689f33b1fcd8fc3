"""A Prometheus of the test's own that scrapes one fla-server four times a second."""
import json
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
RULES = sorted((ROOT / "docker/prometheus/rules").glob("*.yml"))
# Time runs this many times faster in the rules: 5m is 5 s.
HASTE = {"h": "m", "m": "s", "s": "ms"}


def hastened(rules):
    """The text of a rules file with every window and every `for` a sixtieth of itself."""
    faster = lambda match: match[1] + HASTE[match[2]] + match[3]
    text = re.sub(r"(\[\d+)([hms])(\])", faster, rules)
    text = re.sub(r"(for: \d+)([hms])()", faster, text)
    assert not re.search(r"offset|keep_firing_for|interval:", text), "hasten these too"
    return text


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class PrometheusProcess:
    def __init__(self, target):
        """target: host:port of /metrics"""
        assert shutil.which("prometheus"), "no prometheus; ./dev setup installs it"
        self.target = target

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="fla-prometheus-")
        folder = pathlib.Path(self._folder.name)
        (folder / "rules").mkdir()
        for file in RULES:
            (folder / "rules" / file.name).write_text(hastened(file.read_text()))
        # The job as it is shipped, but for the target and the pace.
        config = (ROOT / "docker/prometheus/prometheus.yml").read_text()
        config = config.replace("server:9464", self.target)
        config = re.sub(r"(scrape|evaluation)_interval: \w+", r"\1_interval: 250ms", config)
        (folder / "prometheus.yml").write_text(config)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={folder}/prometheus.yml",
                 f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}",
                 "--log.level=warn"], stderr=log, stdout=log)
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/-/ready", timeout=5).close()
                return self
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.05)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)
        self._folder.cleanup()

    def _get(self, path, **parameters):
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def query(self, expr):
        """[(labels, value)] now"""
        return [(one["metric"], float(one["value"][1]))
                for one in self._get("query", query=expr)["result"]]

    def query_range(self, expr, begin, end, step=0.5):
        """[(labels, [(time, value)])]"""
        result = self._get("query_range", query=expr, start=begin, end=end, step=step)["result"]
        return [(one["metric"], [(t, float(value)) for t, value in one["values"]])
                for one in result]

    def rules(self):
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def firing(self):
        """Names of the alerts that fire."""
        return {alert["labels"]["alertname"] for alert in self._get("alerts")["alerts"]
                if alert["state"] == "firing"}

    def wait_until(self, condition, what, seconds=45):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come; firing: {self.firing()}"
            time.sleep(0.1)

    def wait_firing(self, *names):
        """Until each has been seen to fire, not necessarily at the same time."""
        seen = set()

        def all_seen():
            seen.update(self.firing())
            return set(names) <= seen

        self.wait_until(all_seen, f"{names} firing")

    def wait_clear(self, *names):
        self.wait_until(lambda: not set(names) & self.firing(), f"{names} clear")
