#!/bin/bash
# What bounds every prefill kernel of ours: one line a kernel of a row of prefill_rows.py, by Nsight Compute's counters.
# Bytes of DRAM; percent of the peak while a multiprocessor is active: instruction issue slots, tensor pipe, shared
# memory, resident warps; of the whole time: L2, DRAM. Then the three reasons that most warps wait for, in warps per
# issued instruction.
#   profile_prefill.sh LIBRARY [PATTERN]    rows whose names match; LIBRARY is build/cuda/bench/libfla_prefill.so
# Needs ncu, torch and the right to read counters.
set -euo pipefail
here=$(dirname "$0")
library=$1 pattern=${2:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ncu --clock-control none --profile-from-start off --target-processes all \
  --section SpeedOfLight --section ComputeWorkloadAnalysis --section WarpStateStats --section Occupancy \
  --metrics l1tex__data_pipe_lsu_wavefronts_mem_shared.avg.pct_of_peak_sustained_active,sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active,sm__inst_issued.avg.pct_of_peak_sustained_active,lts__throughput.avg.pct_of_peak_sustained_elapsed,dram__throughput.avg.pct_of_peak_sustained_elapsed,gpu__time_duration.sum,dram__bytes.sum \
  --csv --page raw --print-units base --log-file "$work/ncu.csv" \
  python3 "$here/profile_prefill.py" "$library" "$pattern"
python3 "$here/profile_prefill.py" --lines "$work/ncu.csv" "$pattern"
grep -E '^==(ERROR|WARNING)==' "$work/ncu.csv" || true
