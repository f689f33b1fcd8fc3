#!/usr/bin/env bash
# The server's CPU figures of docs/performance.md: serve_cpu.sh BUILD_DIR. One stream, 64 streams, then
# requests at 1.5 times the rate that 64 streams gave.
set -euo pipefail
build=$1
folder=$(mktemp -d)
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT
cat >"$folder/config.json" <<END
{"listen": "127.0.0.1:0", "log": {"requests": false},
 "models": [{"name": "demo", "path": "$PWD/demo/model", "device": "cpu", "slots": 64}]}
END
"$build/server/fla-server" --config "$folder/config.json" --port-file "$folder/port" 2>"$folder/log" &
server=$!
until [ -s "$folder/port" ]; do kill -0 "$server"; sleep 0.1; done
bench() {
  "$build/client/fla-cli" bench --address "127.0.0.1:$(cat "$folder/port")" --prompt-tokens 64 \
    --output-tokens 128 --warmup 8 --output "$folder/report.json" "$@"
}
echo "load average: $(cut -d' ' -f1-3 /proc/loadavg)"
bench --concurrency 1 --requests 16
bench --concurrency 64 --requests 256
rate=$(sed -n 's/.*"requests_per_second": \([0-9.]*\).*/\1/p' "$folder/report.json")
bench --rate "$(awk "BEGIN { print $rate * 1.5 }")" --duration 30 --goodput ttft:1000,tpot:100 || true
echo "load average: $(cut -d' ' -f1-3 /proc/loadavg)"
