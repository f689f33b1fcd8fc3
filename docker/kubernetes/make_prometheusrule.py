#!/usr/bin/env python3
"""Prints cpu/prometheusrule.yaml: the rules of docker/prometheus/rules for the Prometheus operator."""
import pathlib

RULES = pathlib.Path(__file__).resolve().parents[1] / "prometheus" / "rules"
HEAD = """\
# Made by make_prometheusrule.py from docker/prometheus/rules.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: fla-server
  labels: {app.kubernetes.io/name: fla-server}
spec:
  groups:"""


def main():
    print(HEAD)
    for file in sorted(RULES.glob("*.yml"), reverse=True):
        lines = file.read_text().splitlines()
        for line in lines[lines.index("groups:") + 1:]:
            print(f"  {line}" if line else "")


if __name__ == "__main__":
    main()
