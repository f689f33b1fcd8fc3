#!/usr/bin/env python3
"""Draws a dashboard of dashboards/ as a picture, from a Prometheus, without a Grafana.

render_dashboard.py DASHBOARD.json OUT.png [--prometheus URL] [--seconds N] [--rate-interval W]

Needs matplotlib. For the documentation: it asks Prometheus each panel's queries as Grafana does, and
draws what this project's panels use (timeseries, stat, heatmap, table), not all that Grafana knows.
"""
import argparse
import json
import math
import re
import time
import urllib.parse
import urllib.request

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter

BACKGROUND, PANEL, TEXT, GRID = "#111217", "#181b1f", "#ccccdc", "#2c3235"
COLORS = ["#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#ffa6b0"]
CELL_WIDTH, CELL_HEIGHT = 0.62, 0.36  # inches of a unit of Grafana's grid
STEPS = 240


class Prometheus:
    def __init__(self, url, seconds, rate_interval):
        self.url, self.rate_interval = url, rate_interval
        self.end = time.time()
        self.begin = self.end - seconds

    def series(self, target):
        """[(legend, labels, times, values)]; NaN where there is none. A table's are one value each."""
        expr = target["expr"].replace("$__rate_interval", self.rate_interval).replace("$model", ".*")
        step = (self.end - self.begin) / STEPS
        query = urllib.parse.urlencode({"query": expr, "start": self.begin, "end": self.end,
                                        "step": step})
        with urllib.request.urlopen(f"{self.url}/api/v1/query_range?{query}") as answer:
            result = json.load(answer)["data"]["result"]
        found = []
        for one in result:
            known = {round((at - self.begin) / step): float(value) for at, value in one["values"]}
            values = [known.get(i, math.nan) for i in range(STEPS + 1)]
            times = [i * step - (self.end - self.begin) for i in range(STEPS + 1)]
            found.append((legend(target["legendFormat"], one["metric"]), one["metric"], times, values))
        return found


def legend(template, labels):
    if template == "__auto":
        return ", ".join(value for key, value in labels.items() if key != "__name__") or "value"
    return re.sub(r"{{\s*(\w+)\s*}}", lambda match: labels.get(match[1], ""), template)


def in_unit(value, unit):
    """As Grafana writes it: 0.0123 s is 12.3 ms."""
    if not math.isfinite(value):
        return "-"
    if unit == "s":
        for factor, name in ((1, " s"), (1e3, " ms"), (1e6, " µs")):
            if abs(value) * factor >= 1 or factor == 1e6:
                return f"{value * factor:.3g}{name}" if value else "0 s"
    if unit == "percentunit":
        return f"{value * 100:.3g}%"
    names = {"bytes": " B", "hertz": " Hz", "watt": " W", "joule": " J", "celsius": " °C",
             "reqps": " req/s"}
    name = names.get(unit, "")
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{' ' if name else ''}{prefix}{name.strip()}"
    return f"{value:.3g}{name}"


def time_text(seconds, _):
    return f"{seconds:.0f} s" if abs(seconds) < 300 else f"{seconds / 60:.0f} min"


def draw_timeseries(axes, panel, series):
    custom = panel["fieldConfig"]["defaults"]["custom"]
    if custom["stacking"]["mode"] == "normal":
        zeros = [[0 if math.isnan(value) else value for value in values] for *_, values in series]
        axes.stackplot(series[0][2], zeros, labels=[name for name, *_ in series], colors=COLORS,
                       alpha=0.55)
    else:
        for (name, _, times, values), color in zip(series, COLORS * 4):
            axes.plot(times, values, label=name, color=color, linewidth=1.2)
            axes.fill_between(times, values, alpha=custom["fillOpacity"] / 100, color=color)
    axes.set_ylim(bottom=0)
    if axes.get_ylim()[1] < 1e-9:
        axes.set_ylim(top=1)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=4, fontsize=6, frameon=False,
                labelcolor=TEXT, handlelength=1.2, columnspacing=1)


def draw_heatmap(axes, panel, series):
    rows = sorted(((float(labels["le"]), values) for _, labels, _, values in series
                   if labels["le"] != "+Inf"), key=lambda row: row[0])
    # Buckets are cumulative.
    cells, below = [], [0] * (STEPS + 1)
    for _, values in rows:
        values = [0 if math.isnan(value) else value for value in values]
        cells.append([max(0, value - low) for value, low in zip(values, below)])
        below = values
    top = max((i for i, row in enumerate(cells) if any(row)), default=0) + 1
    cells = [[value if value > 0 else math.nan for value in row] for row in cells[:top + 1]]
    axes.pcolormesh(series[0][2], range(len(cells) + 1),
                    [row[:-1] for row in cells], cmap="Oranges", shading="flat")
    bounds = [rows[i][0] for i in range(len(cells))]
    ticks = range(0, len(cells), max(1, len(cells) // 8))
    axes.set_yticks([tick + 1 for tick in ticks], [in_unit(bounds[tick], "s") for tick in ticks])


def draw_stat(axes, panel, series):
    _, _, times, values = series[0]
    unit = panel["fieldConfig"]["defaults"]["unit"]
    known = [value for value in values if math.isfinite(value)]
    last = known[-1] if known else math.nan
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    color = [step["color"] for step in steps if step["value"] is None or last >= step["value"]][-1]
    color = {"green": COLORS[0], "red": COLORS[4]}[color]
    axes.fill_between(times, values, alpha=0.25, color=color)
    axes.set_ylim(0, max([*known, 1e-9]) * 2.2)
    axes.text(0.5, 0.55, in_unit(last, unit), transform=axes.transAxes, ha="center", va="center",
              fontsize=17, color=color)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)


def draw_table(axes, panel, series):
    hidden = set()
    for transformation in panel.get("transformations", []):
        hidden |= set(transformation["options"]["excludeByName"])
    columns = sorted({key for _, labels, *_ in series for key in labels} - hidden)
    axes.axis("off")
    rows = [[labels.get(column, "") for column in columns] for _, labels, *_ in series]
    drawn = axes.table(cellText=rows, colLabels=columns, loc="upper left", cellLoc="left",
                       colLoc="left", edges="horizontal")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(7)
    for cell in drawn.get_celld().values():
        cell.set_edgecolor(GRID)
        cell.get_text().set_color(TEXT)


DRAW = {"timeseries": draw_timeseries, "heatmap": draw_heatmap, "stat": draw_stat,
        "table": draw_table}


def draw_panel(figure, panel, prometheus, size):
    grid, (width, height) = panel["gridPos"], size
    # Room for the title above and for ticks and legend beside and below, in inches.
    left, right, bottom, top = (0.1, 0.1, 0.1, 0.28) if panel["type"] in ("stat", "table") else (
        0.58, 0.12, 0.5, 0.3)
    x, y = grid["x"] * CELL_WIDTH, height - (grid["y"] + grid["h"]) * CELL_HEIGHT
    w, h = grid["w"] * CELL_WIDTH, grid["h"] * CELL_HEIGHT
    gap = 0.05
    figure.patches.append(plt.Rectangle(((x + gap) / width, (y + gap) / height),
                                        (w - 2 * gap) / width, (h - 2 * gap) / height,
                                        transform=figure.transFigure, facecolor=PANEL, zorder=-1))
    figure.text((x + 0.12) / width, (y + h - 0.2) / height, panel["title"], fontsize=8, color=TEXT,
                weight="bold")
    axes = figure.add_axes([(x + left) / width, (y + bottom) / height,
                            (w - left - right) / width, (h - bottom - top) / height],
                           facecolor=PANEL)
    axes.tick_params(colors=TEXT, labelsize=6, length=0)
    axes.grid(color=GRID, linewidth=0.6)
    for side in axes.spines.values():
        side.set_visible(False)
    unit = panel["fieldConfig"]["defaults"]["unit"]
    axes.xaxis.set_major_formatter(FuncFormatter(time_text))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: in_unit(value, unit)))
    series = [one for target in panel["targets"] for one in prometheus.series(target)]
    if series:
        DRAW[panel["type"]](axes, panel, series)
        if panel["type"] != "table":
            axes.set_xlim(series[0][2][0], series[0][2][-1])
    else:
        axes.text(0.5, 0.5, "No data", transform=axes.transAxes, ha="center", color=TEXT)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dashboard")
    parser.add_argument("out")
    parser.add_argument("--prometheus", default="http://localhost:9090")
    parser.add_argument("--seconds", type=float, default=900, help="how far back it shows")
    parser.add_argument("--rate-interval", default="20s", help="what $__rate_interval stands for")
    arguments = parser.parse_args()

    with open(arguments.dashboard) as file:
        dashboard = json.load(file)
    prometheus = Prometheus(arguments.prometheus, arguments.seconds, arguments.rate_interval)
    panels = dashboard["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    size = (24 * CELL_WIDTH, rows * CELL_HEIGHT)
    figure = plt.figure(figsize=size, facecolor=BACKGROUND)
    for panel in panels:
        if panel["type"] == "row":
            figure.text(0.008, 1 - (panel["gridPos"]["y"] + 0.7) / rows, panel["title"], fontsize=9,
                        color=TEXT)
        else:
            draw_panel(figure, panel, prometheus, size)
    figure.savefig(arguments.out, dpi=72, facecolor=BACKGROUND)


if __name__ == "__main__":
    main()
