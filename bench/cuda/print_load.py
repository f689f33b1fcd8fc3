#!/usr/bin/env python3
"""One table row out of the JSON of `fla-cli bench --json` on standard input. print_load.py NAME"""
import json
import sys

report = json.load(sys.stdin)


def milliseconds(latency, share):
    return f"{1e3 * report[latency][share]:8.2f}"


print(
    f"  {sys.argv[1]:20s} {report['output_tokens_per_second']:9.0f} tokens/s out"
    f" {report['prompt_tokens_per_second']:9.0f} in"
    f" | ttft ms p50{milliseconds('ttft_seconds', 'p50')} p99{milliseconds('ttft_seconds', 'p99')}"
    f" | between tokens ms p50{milliseconds('tpot_seconds', 'p50')} p99{milliseconds('tpot_seconds', 'p99')}"
    f" | failed {report['failed']}"
)
