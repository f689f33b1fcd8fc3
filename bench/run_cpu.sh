#!/usr/bin/env bash
# The CPU figures of docs/performance.md: run_cpu.sh BUILD_DIR
set -euo pipefail
build=$1
lscpu | sed -n 's/^Model name: *//p'
"$build/bench/model_bench" demo/model --dtype f32
"$build/bench/model_bench" demo/model --dtype bf16
"$build/bench/kernels_bench" --benchmark_min_time=0.2
