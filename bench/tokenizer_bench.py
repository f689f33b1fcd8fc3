#!/usr/bin/env python3
"""Our encoder beside Hugging Face's tokenizers, one thread each, in one run.

usage: tokenizer_bench.py --bench build/cpu/bench/tokenizer_bench --text FILE [--megabytes 10]
                          [--rounds 3] FOLDER...

FILE is text, or text in .xz. Each FOLDER holds a tokenizer.json. The two take turns; of each the
round with the least processor time counts, so that other load on the machine matters little. Both
must give the same tokens.
"""
import argparse
import json
import lzma
import os
import re
import subprocess
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
import numpy as np  # noqa: E402
import tokenizers  # noqa: E402


def read_text(path, size):
    opener = lzma.open if path.endswith(".xz") else open
    with opener(path, "rb") as file:
        return file.read(size).decode("utf-8", errors="ignore")


def theirs(path, parts):
    tokenizer = tokenizers.Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # Their fastest way: without offsets into the text.
    begin, cpu_begin = time.perf_counter(), time.process_time()
    encoded = tokenizer.encode_batch_fast(parts, add_special_tokens=False)
    cpu, wall = time.process_time() - cpu_begin, time.perf_counter() - begin
    ids = np.array([i for one in encoded for i in one.ids], dtype=np.uint64)
    with np.errstate(over="ignore"):
        checksum = int((ids * np.arange(1, len(ids) + 1, dtype=np.uint64)).sum(dtype=np.uint64))
    return {"cpu_seconds": cpu, "wall_seconds": wall, "tokens": len(ids), "checksum": checksum}


def ours(bench, folder, file, form):
    return json.loads(subprocess.run([bench, folder, file, form], check=True,
                                     stdout=subprocess.PIPE).stdout)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bench", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("folders", nargs="+")
    arguments = parser.parse_args()
    text = read_text(arguments.text, int(arguments.megabytes * 1e6))
    size = len(text.encode()) / 1e6
    print(f"{size:.1f} MB, tokenizers {tokenizers.__version__}, load average "
          f"{os.getloadavg()[0]:.1f}, best of {arguments.rounds}")
    print("| tokenizer | text | ours, MB/s | tokenizers, MB/s | ratio | tokens |")
    print("|---|---|---|---|---|---|")
    with tempfile.NamedTemporaryFile("wb") as file:
        file.write(text.encode())
        file.flush()
        for folder in arguments.folders:
            for form in ("lines", "whole"):
                parts = re.findall(r"[^\n]*\n|[^\n]+$", text) if form == "lines" else [text]
                runs = [(ours(arguments.bench, folder, file.name, form),
                         theirs(os.path.join(folder, "tokenizer.json"), parts))
                        for _ in range(arguments.rounds)]
                assert all(a[k] == b[k] for a, b in runs for k in ("tokens", "checksum")), runs
                mine, other = (min(run[i]["cpu_seconds"] for run in runs) for i in range(2))
                print(f"| {os.path.basename(folder.rstrip('/'))} | {form} | {size / mine:.1f} | "
                      f"{size / other:.2f} | {other / mine:.1f} | {runs[0][0]['tokens']} |",
                      flush=True)


if __name__ == "__main__":
    main()
