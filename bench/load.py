#!/usr/bin/env python3
"""How long a checkpoint takes to load on the CPU, beside reading its file and doing nothing with it.

usage: load.py SERVER FOLDER [--dtype bf16] [--repeat 3]

SERVER is the built fla-server, FOLDER a checkpoint with one model.safetensors (make_checkpoint.py
makes one). Cold means that the file's pages were dropped from memory just before
(posix_fadvise DONTNEED), warm that they were all there. "weights" is what the server's log calls
"weights read": from opening the files to the last weight in its place; "serving" is from the start
of the process to its health being SERVING, a prompt and a step as warm-up included. Peak memory is
VmHWM of the process. The best of the repetitions is printed.
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import tempfile
import time


def drop(file):
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def read(file):
    buffer = bytearray(8 << 20)
    begin = time.monotonic()
    with open(file, "rb", buffering=0) as stream:
        while stream.readinto(buffer):
            pass
    return time.monotonic() - begin


def load(server, folder, dtype):
    """Seconds of reading weights, seconds until it serves, peak bytes."""
    with tempfile.TemporaryDirectory() as scratch:
        config, port = pathlib.Path(scratch, "config.json"), pathlib.Path(scratch, "port")
        config.write_text(json.dumps({
            "listen": "127.0.0.1:0", "metrics_listen": "",
            "models": [{"name": "m", "path": str(folder.resolve()), "device": "cpu",
                        "dtype": dtype, "slots": 1}]}))
        begin = time.monotonic()
        process = subprocess.Popen([server, "--config", config, "--port-file", port],
                                   stderr=subprocess.PIPE, text=True)
        log = ""
        for line in process.stderr:
            log += line
            if "serving on" in line:
                break
        seconds = time.monotonic() - begin
        found = re.search(r"weights read in ([0-9.]+) s", log)
        if found is None:
            process.kill()
            raise SystemExit(log + process.communicate()[1])
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        process.kill()
        process.communicate()
        return float(found[1]), seconds, int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    file = options.folder / "model.safetensors"
    size = file.stat().st_size
    print(f"{file}: {size / 1e9:.3f} GB, held as {options.dtype}")
    for kind in ("cold", "warm"):
        reads, loads = [], []
        for _ in range(options.repeat):
            if kind == "cold":
                drop(file)
            reads.append(read(file))
            if kind == "cold":
                drop(file)
            loads.append(load(options.server, options.folder, options.dtype))
        seconds, serving, memory = min(loads)
        print(f"{kind}: file alone {min(reads):.2f} s ({size / min(reads) / 1e9:.2f} GB/s); weights "
              f"{seconds:.2f} s ({size / seconds / 1e9:.2f} GB/s), serving after {serving:.2f} s, "
              f"peak {memory / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
