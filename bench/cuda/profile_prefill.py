#!/usr/bin/env python3
"""Runs our prefill once a row (prefill_rows.py) for profile_prefill.sh, or makes its lines of what ncu wrote.

  profile_prefill.py LIBRARY [PATTERN]       rows whose names match, under ncu --profile-from-start off
  profile_prefill.py --lines CSV [PATTERN]   one line a kernel from ncu's raw page, in base units
"""
import csv
import re
import sys

from prefill_rows import ROWS

MARKER = "spherical_bessel_j0"  # a kernel of torch that nothing else uses: one before every row
COLUMNS = {  # what ncu calls it, by section
    "ms": "gpu__time_duration.sum",
    "MB": "dram__bytes.sum",
    "issue": "sm__inst_issued.avg.pct_of_peak_sustained_active",
    "tensor": "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
    "shared": "l1tex__data_pipe_lsu_wavefronts_mem_shared.avg.pct_of_peak_sustained_active",
    "L2": "lts__throughput.avg.pct_of_peak_sustained_elapsed",
    "DRAM": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "warps": "sm__warps_active.avg.pct_of_peak_sustained_active",
}
SCALES = {"ms": 1e-6, "MB": 1e-6}  # of nanoseconds and bytes; the others are percents
STALL, STALL_END = "smsp__average_warps_issue_stalled_", "_per_issue_active.ratio"


def rows_like(pattern):
    return [row for row in ROWS if re.search(pattern, row.name)]


def run(path, pattern):
    import torch
    from prefill_inputs import make_inputs
    from prefill_library import PrefillLibrary
    library = PrefillLibrary(path)
    for row in rows_like(pattern):
        call = library.call(row, make_inputs(row))
        call()
        mark = torch.ones(1, device="cuda")
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        torch.special.spherical_bessel_j0(mark)
        torch.cuda.synchronize()
        call()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


def number(text):
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return float("nan")


def lines(path, pattern):
    with open(path) as file:
        table = [line for line in file if line.startswith('"')]
    records = list(csv.DictReader(table))
    records = records[1:]  # the second line of the page is the units
    names = iter(row.name for row in rows_like(pattern))
    print(f"{'row':29}{'kernel':24}{'blocks':>12}" + "".join(f"{name:>8}" for name in COLUMNS)
          + "  stalls, warps waiting an issue")
    name = "?"
    for record in records:
        kernel = record["Kernel Name"]
        if MARKER in kernel:
            name = next(names)
            continue
        values = {short: number(record.get(column, "")) for short, column in COLUMNS.items()}
        for short, scale in SCALES.items():
            values[short] *= scale
        stalls = {column[len(STALL):-len(STALL_END)]: number(value) for column, value in record.items()
                  if column and column.startswith(STALL) and column.endswith(STALL_END)}
        worst = sorted((-value, reason) for reason, value in stalls.items()
                       if reason not in ("selected", "not_selected") and value == value)[:3]
        short = re.search(r"\w*Kernel\b|$", kernel)[0] or kernel
        print(f"{name:29}{short:24}{record.get('Grid Size', '').replace(' ', ''):>12}"
              + "".join(f"{value:8.3f}" if key == "ms" else f"{value:8.0f}" if key == "MB" else f"{value:7.1f}%"
                        for key, value in values.items())
              + "  " + ", ".join(f"{reason} {-value:.2f}" for value, reason in worst))


if __name__ == "__main__":
    if sys.argv[1] == "--lines":
        lines(sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "")
    else:
        run(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "")
