#!/usr/bin/env bash
# Whole models of the 1.3B shapes with random weights on one GPU: below the server, and through it.
#
#   serve_1b3.sh BUILD_DIR [MODEL...]       default: gated_deltanet-1.3B gla-1.3B kda-1.3B
#
# FOLDER (default /tmp/fla-1b3) keeps the checkpoints; PEER=1 also times transformers with
# flash-linear-attention on each of them, in the same run; STEPS picks what is timed, by default
# "model server".
set -euo pipefail
cd "$(dirname "$0")/../.."
build=${1:?usage: serve_1b3.sh BUILD_DIR [MODEL...]}
shift
[ $# -gt 0 ] || set -- gated_deltanet-1.3B gla-1.3B kda-1.3B
folder=${FOLDER:-/tmp/fla-1b3}
steps=${STEPS:-model server}
# BUILD_DIR is a build tree, or a bundle with all programs in bin/.
program() { if [ -x "$build/bin/${1##*/}" ]; then echo "$build/bin/${1##*/}"; else echo "$build/$1"; fi; }
server_pid=
trap '[ -z "$server_pid" ] || kill "$server_pid" 2>/dev/null || true' EXIT

nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv,noheader
for model in "$@"; do
  [ -e "$folder/$model/model.safetensors" ] || python3 bench/make_checkpoint.py "$model" "$folder/$model"
  if [[ $steps == *model* ]]; then
    "$(program bench/model_bench)" "$folder/$model" --device cuda --dtype bf16 --seconds "${SECONDS_A_ROW:-2}" \
      --prefill 1x128,1x2048,8x2048,1x32768 --decode 1,8,32,64,256
  fi
  if [[ $steps == *server* ]]; then
    cat > "$folder/$model.json" <<JSON
{"listen": "127.0.0.1:0", "models": [{"name": "$model", "path": "$folder/$model", "device": "cuda", "dtype": "bf16"}],
 "limits": {"max_queued_requests": 4096}, "log": {"requests": false}}
JSON
    rm -f "$folder/port"
    "$(program server/fla-server)" --config "$folder/$model.json" --port-file "$folder/port" 2> "$folder/$model.log" &
    server_pid=$!
    for _ in $(seq 1200); do
      [ -s "$folder/port" ] && break
      kill -0 "$server_pid" 2>/dev/null || { cat "$folder/$model.log"; exit 1; }
      sleep 0.1
    done
    cat "$folder/$model.log"
    load() {  # load NAME CONCURRENCY REQUESTS PROMPT OUTPUT
      "$(program client/fla-cli)" --address "127.0.0.1:$(cat "$folder/port")" bench --concurrency "$2" --requests "$3" \
        --warmup "$2" --prompt-tokens "$4" --output-tokens "$5" --json |
        python3 bench/cuda/print_load.py "$1"
    }
    echo "through the server:"
    load "prefill 1x128" 1 20 128 1
    load "prefill 1x2048" 1 20 2048 1
    load "prefill 8x2048" 8 64 2048 1
    load "prefill 1x32768" 1 5 32768 1
    load "decode, 1 stream" 1 8 64 256
    load "decode, 32 streams" 32 128 64 256
    load "decode, 256 streams" 256 768 64 256
    kill -TERM "$server_pid"
    wait "$server_pid" || true
    server_pid=
    tail -2 "$folder/$model.log"
  fi
  if [ "${PEER:-0}" = 1 ]; then
    python3 bench/cuda/transformers_generate.py "$folder/$model"
  fi
done
