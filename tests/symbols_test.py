#!/usr/bin/env python3
"""Fails where a program shares Protobuf's symbols with its libraries: see proto/CMakeLists.txt.

usage: symbols_test.py PROGRAM...
"""
import subprocess
import sys


def shared(program):
    symbols = subprocess.run(["readelf", "--dyn-syms", "--wide", program], check=True,
                             capture_output=True, text=True).stdout.splitlines()
    assert len(symbols) > 100, f"{program}: wanted a table of dynamic symbols, got {symbols}"
    libraries = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    return ([line.split()[-1] for line in symbols if "6google8protobuf" in line] +
            [line.strip() for line in libraries.splitlines() if "libprotobuf.so" in line])


wrong = {program: found for program in sys.argv[1:] if (found := shared(program))}
for program, found in wrong.items():
    print(f"{program}: {len(found)} symbols and libraries of Protobuf, as {found[0]}")
sys.exit(1 if wrong or len(sys.argv) < 2 else 0)
