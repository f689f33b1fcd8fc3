"""Measures in a process of its own for every peer, so that one that hangs or breaks its CUDA context costs only its own
lines. A child prints a record a line, as JSON; the parent gathers them."""
import json
import math
import queue
import subprocess
import sys
import threading
import time

MARK = "record "


def emit(**record):
    print(MARK + json.dumps(record), flush=True)


def gather(arguments, patience, deadline=math.inf):
    """The records of `sys.executable arguments`, and what went wrong or None. A child that gives no record for
    `patience` seconds, or has not ended at `deadline` (of time.monotonic), is stopped."""
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    errors, lines = [], queue.SimpleQueue()

    def read():
        for line in child.stdout:
            lines.put(line)
        lines.put(None)

    readers = [threading.Thread(target=read), threading.Thread(target=lambda: errors.extend(child.stderr))]
    for reader in readers:
        reader.start()
    records, stopped = [], None
    last = time.monotonic()
    while True:
        end = min(last + patience, deadline)
        try:
            line = lines.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            stopped = f"stopped, {time.monotonic() - last:.0f} s without a record"
            child.kill()
            break
        if line is None:
            break
        if line.startswith(MARK):
            records.append(json.loads(line[len(MARK):]))
            last = time.monotonic()
    child.wait()
    for reader in readers:
        reader.join()
    if stopped or child.returncode == 0:
        return records, stopped
    said = [line.strip() for line in errors if line.strip()][-1:]
    return records, f"exit code {child.returncode}: {''.join(said)[:300]}"


def describe(error):
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"

