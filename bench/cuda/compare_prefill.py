#!/usr/bin/env python3
"""Compares our prefill kernels with those of every installed peer: fla, flash_kda, cula, flash_qla, flashinfer.

  compare_prefill.py LIBRARY [--warm N] [--peers NAMES] [--only TEXT] [--json FILE] [--patience S] [--seconds S]

LIBRARY is build/cuda/bench/libfla_prefill.so. Needs a GPU and torch; a peer is used if `import` finds it, and named if
not. First what uses the GPU without being timed, all at once: N processes call what peers compile at first use, to fill
their caches; one computes the definition of every row in double precision; and a peer that keeps no cache of what it
compiles (flashinfer) compiles in the process that will be timed. Then, one peer after the other, each in a process of
its own, for every row (prefill_rows.py) that it takes: both compute outputs and final states from the same inputs, which
are checked against the definition; then both are timed in turn, as medians of CUDA graph replays (a peer that cannot be
recorded: by events around queued calls, marked "q").

A row is compared in one or both of two forms. "inputs": q and k have norm 1, log decays (f32) and beta are given. "raw":
KDA from what a layer's projections leave, that is q, k, gate and beta in bf16; a peer includes the norms, the gate's
activation and the sigmoid (cula: not the sigmoid), and so does ours. A peer that takes "raw" alone stands in the rows of
"inputs" too, with its raw time, marked "r".

Exit code 1 if an output of ours is further than 8e-3 from the definition, or further than flash_kda's from the same
inputs.
"""
import argparse
import json
import math
import os
import sys
import tempfile
import time

import torch

from graph_time import median_ms, queued_ms
from peer_process import Child, describe, emit, wait_for_turn
from prefill_inputs import make_inputs, reference, relative_error
from prefill_library import PrefillLibrary
from prefill_peers import PEERS
from prefill_rows import ROWS

ALONE, DEFINITIONS = "ours alone", "definitions"  # instead of a peer
COMPILING = ("flashinfer",)  # anew in every process
BOUND = 8e-3  # of relative errors in bf16, as in recurrence_check.cu


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("--peers", default=",".join(PEERS), type=lambda names: names.split(","))
    parser.add_argument("--only", default="", help="rows with this in their names")
    parser.add_argument("--json", help="file for every record")
    parser.add_argument("--patience", type=float, default=60, help="seconds that a peer may be silent")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of the whole comparison")
    parser.add_argument("--warm", type=int, default=0, metavar="N", help="processes that fill caches")
    # The children's side: a folder that they share; a peer, ALONE or DEFINITIONS; every I-th of N shapes.
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--fill", help=argparse.SUPPRESS)
    return parser.parse_args()


def cases(only):
    """Rows, and whether raw."""
    for row in ROWS:
        if only in row.name:
            yield row, False
            if row.op == "kda":
                yield row, True


def fill_caches(peers, only, index=0, count=1):
    """Calls every shape that `peers` compile for: that does not depend on lengths, but for whether they are equal."""
    shapes = {(name, row.op, row.qk_heads, row.heads, row.key_dim, row.value_dim, row.batched, raw): (name, row, raw)
              for name in peers for row, raw in cases(only)}
    for name, row, raw in list(shapes.values())[index::count]:
        try:
            call = PEERS[name](row, make_inputs(row), raw)
            for _ in range(2 if call else 0):
                call()
            torch.cuda.synchronize()
        except Exception as error:  # the comparison will say it again
            print(f"{name}, {row.name}: {describe(error)}", flush=True)
        call = None
        torch.cuda.empty_cache()


def checked(call, wanted, stream=None):
    """Relative errors of the outputs and of the final states of a first call."""
    stream = stream or torch.cuda.current_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        out, state = call()
    torch.cuda.synchronize()
    return [relative_error(x.reshape(want.shape), want) for x, want in zip((out, state), wanted)]


def defined(row, inputs, raw, folder):
    """reference(), computed by the first process that wants it: 65536 tokens take seconds. In f32, for whose rounding
    errors of 1e-3 have no eyes."""
    path = os.path.join(folder, f"{row.name}-{raw}.pt".replace("/", "_"))
    if not os.path.exists(path):
        torch.save([x.float() for x in reference(row, inputs, raw)], f"{path}.{os.getpid()}")
        os.replace(f"{path}.{os.getpid()}", path)
    return [x.double() for x in torch.load(path, map_location="cuda")]


def peer_ms(call):
    try:
        return median_ms(call), "graph"
    except Exception:
        torch.cuda.synchronize()
        return queued_ms(call), "queued"


def compare(library, name, row, raw, folder):
    """The record of a row and form, or None if the peer does not take it. `name` may be ALONE."""
    record = dict(row=row.name, form="raw" if raw else "inputs", peer=name)
    inputs = make_inputs(row)
    peer = None
    if name in PEERS:
        peer = PEERS[name](row, inputs, raw)
        if peer is None:
            return None
    ours = library.call(row, inputs, raw)
    wanted = defined(row, inputs, raw, folder)
    record["ours_errors"] = checked(ours, wanted, library.stream)
    if peer:
        try:
            record["peer_errors"] = checked(peer, wanted)
        except Exception as error:
            record["failed"] = describe(error)
            peer = None
    del wanted
    torch.cuda.empty_cache()
    times = [(median_ms(ours, stream=library.stream), *(peer_ms(peer) if peer else ())) for _ in range(2)]
    record["ours_ms"] = min(time[0] for time in times)
    if peer:
        record["peer_ms"], record["method"] = min(time[1:] for time in times)
    return record


def measure(options):
    """The child's side."""
    if options.measure == DEFINITIONS:
        for row, raw in cases(options.only):
            defined(row, make_inputs(row), raw, options.folder)
            emit(defined=row.name)
            torch.cuda.empty_cache()
        return
    library = PrefillLibrary(options.library)
    if options.measure in COMPILING:
        fill_caches([options.measure], options.only)
    wait_for_turn()
    for row, raw in cases(options.only):
        try:
            record = compare(library, options.measure, row, raw, options.folder)
            if record:
                emit(**record)
        except ImportError as error:
            emit(peer=options.measure, absent=describe(error))
            return
        except Exception as error:
            emit(row=row.name, form="raw" if raw else "inputs", peer=options.measure, failed=describe(error))
            torch.cuda.synchronize()  # ends the process if its CUDA context is lost
        torch.cuda.empty_cache()


def print_tables(records, peers):
    print(f"\n{'ms (times ours)':29}{'form':7}{'ours':>8}{'goal':>6}" + "".join(f"{name:>18}" for name in peers))
    for row, raw in cases(""):
        lines = [r for r in records if (r.get("row"), r.get("form")) == (row.name, "raw" if raw else "inputs")]
        times = sorted(r["ours_ms"] for r in lines if "ours_ms" in r)
        if not times:
            continue
        cells = {}
        for r in lines:
            if "peer_ms" in r:
                mark = "q" if r["method"] == "queued" else " "
                cells[r["peer"]] = f"{r['peer_ms']:9.4f}{mark}({r['peer_ms'] / r['ours_ms']:5.2f})"
            elif "failed" in r:
                cells[r["peer"]] = "failed"
        for r in records:
            if not raw and r["row"] == row.name and r["form"] == "raw" and r["peer"] not in cells and "peer_ms" in r:
                cells[r["peer"]] = f"{r['peer_ms']:9.4f}r({r['peer_ms'] / times[len(times) // 2]:5.2f})"
        goal = f"{row.goal_ms:6.2f}" if row.goal_ms and not raw else f"{'':6}"
        print(f"{row.name:29}{'raw' if raw else 'inputs':7}{times[len(times) // 2]:8.4f}{goal}"
              + "".join(f"{cells.get(name, '-'):>18}" for name in peers))
    print(f"\n{'error of out, of state':29}{'form':7}{'ours':>16}" + "".join(f"{name:>18}" for name in peers))
    for row, raw in cases(""):
        lines = [r for r in records if (r.get("row"), r.get("form")) == (row.name, "raw" if raw else "inputs")]
        ours = [r["ours_errors"] for r in lines if "ours_errors" in r]
        if ours:
            cells = {r["peer"]: " ".join(f"{e:.1e}" for e in r["peer_errors"]) for r in lines if "peer_errors" in r}
            print(f"{row.name:29}{'raw' if raw else 'inputs':7}{' '.join(f'{e:.1e}' for e in ours[0]):>16}"
                  + "".join(f"{cells.get(name, '-'):>18}" for name in peers))


def gather_peers(options, folder):
    """All records, and the peers that were there."""
    deadline = time.monotonic() + options.seconds

    def child(*arguments, waits=False):
        return Child([os.path.abspath(__file__), options.library, "--peers", ",".join(options.peers), "--only",
                      options.only, "--folder", folder, *arguments], waits)

    peers = {name: child("--measure", name, waits=True) for name in [*options.peers, ALONE]}
    cached = [name for name in options.peers if name not in COMPILING]
    untimed = [child("--measure", DEFINITIONS)]
    if cached:
        untimed += [child("--fill", f"{i}/{options.warm}", "--peers", ",".join(cached)) for i in range(options.warm)]
    try:
        for other in untimed:
            _, problem = other.gather(math.inf, deadline)
            if problem:
                print(f"before the comparison: {problem}")
        for name in COMPILING:
            if name in peers:
                peers[name].wait_until_ready(math.inf, deadline)

        records, present = [], []
        for name, peer in peers.items():
            measured = {record["row"] for record in records if "ours_ms" in record}
            if name == ALONE and measured.issuperset(row.name for row, _ in cases(options.only)):
                break
            own, problem = peer.gather(options.patience, deadline)
            for record in own:
                if "absent" in record:
                    problem = f"absent: {record['absent']}"
                if "failed" in record:
                    print(f"{name}, {record['row']}, {record['form']}: {record['failed']}")
                if "peer_ms" in record:  # at once: a run that is cut short has said what it knew
                    print(f"{name}, {record['row']}, {record['form']}: ours {record['ours_ms']:.4f} ms, "
                          f"{name} {record['peer_ms']:.4f}")
            records += [record for record in own if "row" in record]
            if any("peer_ms" in record for record in own):
                present.append(name)
            print(f"{name}: {problem or 'compared'}", flush=True)
            if options.json:
                with open(options.json, "w") as file:
                    json.dump(records, file, indent=1)
    finally:
        for other in [*untimed, *peers.values()]:
            other.stop()
    return records, present


def main():
    options = parse()
    torch.set_grad_enabled(False)
    if options.fill:
        return fill_caches(options.peers, options.only, *map(int, options.fill.split("/")))
    if options.measure:
        return measure(options)
    with tempfile.TemporaryDirectory() as folder:
        records, present = gather_peers(options, folder)
    if not any("ours_ms" in record for record in records):
        return "no row was measured"
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print_tables(records, present)
    # Not (error <= bound): NaN fails too.
    wrong = [r for r in records if "ours_errors" in r and not max(r["ours_errors"]) <= BOUND]
    worse = [r for r in records if "peer_errors" in r and not r["ours_errors"][0] <= r["peer_errors"][0]]
    for text, lines in ((f"over {BOUND}", wrong), ("over the peer's", worse)):
        for r in lines:
            print(f"error of ours {text}: {r['row']}, {r['form']}, {r['peer']}: {r['ours_errors']}, {r.get('peer_errors')}")
    return int(bool(wrong or any(r["peer"] == "flash_kda" for r in worse)))


if __name__ == "__main__":
    sys.exit(main())
