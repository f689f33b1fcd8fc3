#!/usr/bin/env python3
"""Writes dashboards/*.json: what Grafana reads, made of the few lines a panel that differ.

make_dashboards.py [FOLDER]: into FOLDER instead.
"""
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
RATE = "$__rate_interval"
MODEL = 'model=~"$model"'
WIDTH = 24  # of Grafana's grid


def target(expr, legend="", instant=False, format="time_series"):
    return {"datasource": DATASOURCE, "expr": expr, "legendFormat": legend or "__auto",
            "editorMode": "code", "range": not instant, "instant": instant, "format": format}


def percentiles(metric, *levels):
    return [target(f"histogram_quantile({level / 100:g}, sum by (le) "
                   f"(rate({metric}_bucket{{{MODEL}}}[{RATE}])))", f"p{level:g}")
            for level in levels]


def mean(metric):
    return f"sum(rate({metric}_sum{{{MODEL}}}[{RATE}])) / sum(rate({metric}_count{{{MODEL}}}[{RATE}]))"


def panel(kind, title, unit, targets, width, height, description, defaults=None, options=None):
    return {"type": kind, "title": title, "description": description, "datasource": DATASOURCE,
            "gridPos": {"h": height, "w": width, "x": 0, "y": 0},
            "fieldConfig": {"defaults": {"unit": unit, **(defaults or {})}, "overrides": []},
            "options": options or {},
            "targets": [{**one, "refId": chr(ord("A") + i)} for i, one in enumerate(targets)]}


def graph(title, unit, *targets, width=8, description="", stacked=False):
    custom = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 25 if stacked else 8,
              "showPoints": "never", "spanNulls": False,
              "stacking": {"mode": "normal" if stacked else "none", "group": "A"}}
    return panel("timeseries", title, unit, flat(targets), width, 8, description,
                 {"custom": custom, "min": 0},
                 {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True,
                             "calcs": []},
                  "tooltip": {"mode": "multi", "sort": "desc"}})


def stat(title, unit, expr, width=4, description="", red_above=None):
    steps = [{"color": "green", "value": None}]
    if red_above is not None:
        steps.append({"color": "red", "value": red_above})
    return panel("stat", title, unit, [target(expr, title)], width, 4, description,
                 {"thresholds": {"mode": "absolute", "steps": steps}},
                 {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                  "colorMode": "value", "graphMode": "area", "justifyMode": "auto",
                  "textMode": "auto", "orientation": "auto"})


def heatmap(title, unit, metric, width=8, description=""):
    expr = f"sum by (le) (increase({metric}_bucket{{{MODEL}}}[{RATE}]))"
    return panel("heatmap", title, unit, [target(expr, "{{le}}", format="heatmap")], width, 8,
                 description, None,
                 {"calculate": False, "yAxis": {"unit": unit, "axisPlacement": "left"},
                  "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
                  "cellGap": 1, "tooltip": {"show": True, "yHistogram": True},
                  "legend": {"show": True}})


def table(title, expr, hidden, width=24, description=""):
    made = panel("table", title, "none", [target(expr, "", instant=True, format="table")], width, 6,
                 description, None, {"showHeader": True, "cellHeight": "sm"})
    made["transformations"] = [
        {"id": "organize", "options": {"excludeByName": dict.fromkeys(hidden, True)}}]
    return made


def flat(targets):
    return [one for item in targets for one in (item if isinstance(item, list) else [item])]


def row(title):
    return {"type": "row", "title": title, "collapsed": False, "panels": [],
            "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": 0}}


def place(panels):
    """Left to right, top to bottom, each row as high as its highest panel."""
    x = y = height = 0
    for number, one in enumerate(panels, 1):
        grid = one["gridPos"]
        if x + grid["w"] > WIDTH:
            x, y, height = 0, y + height, 0
        grid["x"], grid["y"], one["id"] = x, y, number
        x, height = x + grid["w"], max(height, grid["h"])
    return panels


def variables(by_model):
    made = [{"name": "datasource", "label": "Prometheus", "type": "datasource",
             "query": "prometheus", "hide": 0, "includeAll": False, "multi": False,
             "refresh": 1, "regex": ""}]
    if by_model:
        query = "label_values(fla_requests_running, model)"
        made.append({"name": "model", "label": "Model", "type": "query", "datasource": DATASOURCE,
                     "query": {"query": query, "refId": "models"},
                     "hide": 0, "includeAll": True, "allValue": ".*", "multi": True, "refresh": 2,
                     "sort": 1, "regex": "", "current": {"text": ["All"], "value": ["$__all"]}})
    return made


def dashboard(uid, title, description, panels, by_model=True):
    return {"uid": uid, "title": title, "description": description, "tags": ["fla-server"],
            "schemaVersion": 39, "version": 1, "editable": True, "graphTooltip": 1, "refresh": "5s",
            "time": {"from": "now-15m", "to": "now"}, "timezone": "browser",
            "templating": {"list": variables(by_model)}, "annotations": {"list": []},
            "links": [{"title": "fla-server", "type": "dashboards", "tags": ["fla-server"],
                       "asDropdown": False, "includeVars": True, "keepTime": True, "icon": "",
                       "targetBlank": False, "tooltip": "", "url": ""}],
            "panels": place(panels)}


def rate(metric, by, **labels):
    matchers = ",".join([MODEL, *(f'{key}="{value}"' for key, value in labels.items())])
    return f"sum by ({by}) (rate({metric}{{{matchers}}}[{RATE}]))"


def total(metric):
    return f"sum({metric}{{{MODEL}}})"


def service():
    return dashboard("fla-server-service", "fla-server: service", "Load, latency and errors of requests.", [
        stat("Running", "short", total("fla_requests_running"),
             description="Requests that hold a state slot."),
        stat("Waiting", "short", total("fla_requests_waiting"), description="Requests in the queue."),
        stat("Tokens a second", "short", f"sum(rate(fla_generation_tokens_total{{{MODEL}}}[{RATE}]))",
             description="Tokens generated."),
        stat("First token, p95", "s", percentiles("fla_time_to_first_token_seconds", 95)[0]["expr"],
             red_above=2.5, description="From arrival to the first token."),
        stat("Between tokens, p95", "s",
             percentiles("fla_inter_token_latency_seconds", 95)[0]["expr"], red_above=0.1,
             description="Between two tokens of a request."),
        stat("Turned away", "percentunit",
             f"sum(rate(fla_admission_rejections_total{{{MODEL}}}[{RATE}])) / "
             f"(sum(rate(fla_admission_rejections_total{{{MODEL}}}[{RATE}])) + "
             f"sum(rate(fla_requests_total{{{MODEL}}}[{RATE}])))", red_above=0.01,
             description="Part of all requests that was refused before the queue."),
        row("Requests"),
        graph("Requests a second", "reqps", target(rate("fla_requests_total", "finish_reason"),
                                                   "{{finish_reason}}"), stacked=True,
              description="Finished requests by finish reason. `error` and `unavailable` are ours; "
                          "`cancelled` and `deadline` the client's."),
        graph("Turned away a second", "reqps",
              target(rate("fla_admission_rejections_total", "reason"), "{{reason}}"), stacked=True,
              description="Before the queue, by reason. `queue_full` asks for more slots or "
                          "servers; `invalid` is the client's."),
        graph("Queue", "short", target(total("fla_requests_waiting"), "waiting"),
              target(total("fla_requests_waiting_limit"), "limit"),
              description="Requests that wait for a slot, and how many may."),
        row("Latency"),
        graph("Time to first token", "s", percentiles("fla_time_to_first_token_seconds", 50, 95, 99),
              description="From the request's arrival: queue and prefill."),
        graph("Between tokens", "s", percentiles("fla_inter_token_latency_seconds", 50, 95, 99),
              description="What a reader of a stream feels. Prefill of others shares the step."),
        heatmap("Between tokens, all", "s", "fla_inter_token_latency_seconds",
                description="Tokens by their distance from the one before."),
        graph("Whole request", "s", percentiles("fla_e2e_request_latency_seconds", 50, 95, 99),
              description="From arrival to finish."),
        graph("Where the time goes", "s",
              target(mean("fla_request_queue_time_seconds"), "queue"),
              target(mean("fla_request_prefill_time_seconds"), "prefill"),
              target(mean("fla_request_decode_time_seconds"), "decode"), stacked=True,
              description="Means of finished requests."),
        graph("Slower than the objectives", "percentunit",
              target(f"model:fla_first_token_slow:ratio_rate5m{{{MODEL}}}", "first token, {{model}}"),
              target(f"model:fla_inter_token_slow:ratio_rate5m{{{MODEL}}}",
                     "between tokens, {{model}}"),
              description="Part of requests (of tokens) over 2.5 s (0.1 s); the alerts burn a "
                          "budget of 1 %."),
        row("Batches"),
        graph("Tokens a second", "short",
              target(f"sum(rate(fla_generation_tokens_total{{{MODEL}}}[{RATE}]))", "generated"),
              target(f"sum(rate(fla_prompt_tokens_total{{{MODEL}}}[{RATE}]))", "prompt"),
              description="Through the model."),
        graph("Batch composition", "short",
              target(mean("fla_batch_decode_sequences"), "decode rows"),
              target(f"sum(rate(fla_prompt_tokens_total{{{MODEL}}}[{RATE}])) / "
                     f"sum(rate(fla_batch_tokens_count{{{MODEL}}}[{RATE}]))", "prompt tokens"),
              stacked=True, description="Of a step, on average."),
        graph("Step time", "s", percentiles("fla_step_seconds", 50, 95, 99),
              description="Of one batch through the model."),
        graph("Device idle between steps", "percentunit",
              target(f"sum by (model) (rate(fla_device_gap_seconds_sum{{{MODEL}}}[{RATE}]))",
                     "{{model}}"),
              description="Part of the time that the device waited for its next step while there "
                          "was work."),
    ])


def model():
    hidden = ["Time", "Value", "__name__", "job", "instance"]
    return dashboard("fla-server-model", "fla-server: models", "What is loaded and what it holds.", [
        table("Models", f"fla_model_info{{{MODEL}}}", hidden,
              description="What is served now."),
        row("Slots and memory"),
        graph("State slots", "short", target(f"fla_state_slots_used{{{MODEL}}}", "{{model}} used"),
              target(f"fla_state_slots_total{{{MODEL}}}", "{{model}} total"),
              description="A request runs when it has a slot."),
        graph("Memory", "bytes", target(f"fla_device_memory_bytes{{{MODEL}}}",
                                        "{{model}} {{kind}} ({{device}})"), stacked=True,
              description="On the model's device, by kind."),
        graph("Host memory", "bytes", target("process_resident_memory_bytes", "resident"),
              description="Of the server's process."),
        row("Loads and swaps"),
        graph("Serving", "short", target(f"fla_model_serving{{{MODEL}}}", "{{model}}"),
              description="1 while the model takes requests."),
        graph("Swaps", "short", target(f"sum by (model, result) (fla_model_swaps_total{{{MODEL}}})",
                                       "{{model}} {{result}}"),
              description="New versions since the start."),
        graph("Load time", "s", target(f"fla_model_load_seconds{{{MODEL}}}", "{{model}}"),
              description="Of the last load."),
        graph("Config reloads", "short", target("fla_config_reload_total", "{{result}}"),
              target("1 - fla_config_last_reload_successful", "refused now"),
              description="Since the start."),
        graph("Non-finite logits", "short", target(f"fla_state_nonfinite_total{{{MODEL}}}",
                                                   "{{model}}"),
              description="Requests that ended with an error because of a NaN or an infinity."),
        graph("Processor time", "percentunit", target(f"rate(process_cpu_seconds_total[{RATE}])",
                                                      "cores"),
              description="Cores that the process keeps busy."),
        row("Requests"),
        graph("Prompt length", "short", percentiles("fla_request_prompt_tokens", 50, 95),
              description="Tokens of finished requests."),
        graph("Answer length", "short", percentiles("fla_request_generation_tokens", 50, 95),
              description="Tokens of finished requests."),
        graph("Tokens a second by model", "short",
              target(rate("fla_generation_tokens_total", "model"), "{{model}}"), stacked=True,
              description="Generated."),
    ])


def gpu():
    def by_gpu(metric, suffix=""):
        return target(metric, f"GPU {{{{gpu}}}}{suffix}")
    return dashboard("fla-server-gpu", "fla-server: GPUs", "What NVML says. Empty without a GPU.", [
        table("GPUs", "fla_gpu_info", ["Time", "Value", "__name__", "job", "instance"],
              description="`device` is the GPU's name in the config."),
        graph("Utilisation", "percentunit", by_gpu("fla_gpu_utilization_ratio"),
              description="Part of the time in which a kernel ran."),
        graph("Memory traffic", "percentunit", by_gpu("fla_gpu_memory_utilization_ratio"),
              description="Part of the time in which memory was read or written."),
        graph("Memory", "bytes", by_gpu("fla_gpu_memory_used_bytes", " used"),
              by_gpu("fla_gpu_memory_total_bytes", " total"), description="By all processes and the driver."),
        graph("Memory by kind", "bytes",
              target("sum by (device, kind) (fla_device_memory_bytes)", "{{device}} {{kind}}"),
              stacked=True, description="What the models hold."),
        graph("Power", "watt", by_gpu("fla_gpu_power_watts"),
              by_gpu("fla_gpu_power_limit_watts", " limit"), description="Drawn, and the limit."),
        graph("Energy a token", "joule",
              target(f"sum(rate(fla_gpu_energy_joules_total[{RATE}])) / "
                     f"sum(rate(fla_generation_tokens_total[{RATE}]))", "joules"),
              description="All GPUs' energy over all models' generated tokens."),
        graph("Temperature", "celsius", by_gpu("fla_gpu_temperature_celsius"),
              description="Of the chip."),
        graph("Clock", "hertz", by_gpu("fla_gpu_sm_clock_hertz"),
              description="Of the multiprocessors; it falls when the GPU throttles."),
    ], by_model=False)


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "dashboards"
    for name, made in (("service", service()), ("model", model()), ("gpu", gpu())):
        text = json.dumps(made, indent=1, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
