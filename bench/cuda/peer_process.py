"""Measures in a process of its own for every peer, so that one that hangs or breaks its CUDA context costs only its own
lines. A child prints a record a line, as JSON; the parent gathers them."""
import json
import math
import queue
import subprocess
import sys
import threading
import time

MARK, READY = "record ", "ready"


def emit(**record):
    print(MARK + json.dumps(record), flush=True)


def wait_for_turn():
    """The child's side of Child(waits=True): returns when the parent wants its records."""
    print(READY, flush=True)
    sys.stdin.readline()


class Child:
    """`sys.executable arguments`, started. One that `waits` for its turn gets ready while others compile or measure."""

    def __init__(self, arguments, waits=False):
        self._process = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=subprocess.PIPE, text=True)
        self._waits, self._lines, self._errors = waits, queue.SimpleQueue(), []
        self._readers = [threading.Thread(target=self._read),
                         threading.Thread(target=lambda: self._errors.extend(self._process.stderr))]
        for reader in self._readers:
            reader.start()

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _until(self, wanted, patience, deadline):
        """Hands `wanted` every line until it returns True or the child ends: then True. False, and the child is stopped,
        after `patience` seconds without a record, or at `deadline`."""
        last = time.monotonic()
        while True:
            end = min(last + patience, deadline)
            try:
                line = self._lines.get(timeout=min(max(0.0, end - time.monotonic()), threading.TIMEOUT_MAX))
            except queue.Empty:
                self._process.kill()
                return False
            if line is None:
                self._lines.put(None)  # for the next one who asks
                return True
            if line.startswith(MARK):
                last = time.monotonic()
            if wanted(line):
                return True

    def wait_until_ready(self, patience, deadline=math.inf):
        if self._waits and self._until(lambda line: line.startswith(READY), patience, deadline):
            self._waits = False
        return not self._waits

    def gather(self, patience, deadline=math.inf):
        """The child's records, and what went wrong or None. One that gives no record for `patience` seconds, or has not
        ended at `deadline` (of time.monotonic), is stopped."""
        ready = self.wait_until_ready(patience, deadline)
        records = []

        def collect(line):
            if line.startswith(MARK):
                records.append(json.loads(line[len(MARK):]))

        try:
            self._process.stdin.write("go\n")
            self._process.stdin.close()
        except BrokenPipeError:  # it has ended; its exit code says why
            pass
        ended = ready and self._until(collect, patience, deadline)
        self._process.wait()
        for reader in self._readers:
            reader.join()
        if not ended:
            return records, "stopped, too long without a record"
        if self._process.returncode == 0:
            return records, None
        said = [line.strip() for line in self._errors if line.strip()][-1:]
        return records, f"exit code {self._process.returncode}: {''.join(said)[:300]}"

    def stop(self):
        self._process.kill()
        self._process.wait()


def gather(arguments, patience, deadline=math.inf):
    return Child(arguments).gather(patience, deadline)


def describe(error):
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"

