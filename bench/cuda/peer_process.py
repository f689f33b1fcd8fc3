"""Measures in a process of its own for every peer, so that one that hangs or breaks its CUDA context costs only its own
lines. A child prints a record a line, as JSON; the parent gathers them."""
import json
import subprocess
import sys
import threading

MARK = "record "


def emit(**record):
    print(MARK + json.dumps(record), flush=True)


def gather(arguments, seconds):
    """The records of `sys.executable arguments`, and what went wrong or None. The child has `seconds`."""
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    timer = threading.Timer(seconds, child.kill)
    timer.start()
    errors = []
    reader = threading.Thread(target=lambda: errors.extend(child.stderr))
    reader.start()
    records = [json.loads(line[len(MARK):]) for line in child.stdout if line.startswith(MARK)]
    child.wait()
    killed = not timer.is_alive()
    timer.cancel()
    reader.join()
    if child.returncode == 0:
        return records, None
    if killed:
        return records, f"stopped after {seconds} s"
    last = [line.strip() for line in errors if line.strip()][-1:]
    return records, f"exit code {child.returncode}: {''.join(last)[:300]}"


def describe(error):
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"

