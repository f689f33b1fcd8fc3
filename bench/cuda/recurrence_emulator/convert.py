#!/usr/bin/env python3
"""Makes C++ of CUDA sources for the emulator: launches become calls, built-in sizes variables of its own.

  convert.py SOURCE_ROOT TARGET_ROOT FILE...     paths of files are relative to both roots; x.cu becomes x.cu.cc
"""
import pathlib
import re
import sys


def arguments(text):
    """The top-level, comma-separated parts of `text`."""
    parts, depth, part = [], 0, ""
    for character in text:
        depth += (character in "(<") - (character in ")>")
        if character == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += character
    return parts + [part]


def launch(match):
    kernel, configuration, call = match.groups()
    grid, block = arguments(configuration)[:2]
    return f"emulator::Launch([=] {{ {kernel}({call}); }}, dim3({grid}), dim3({block}));"


def convert(text):
    text = text.replace("extern __shared__", "extern")
    text = re.sub(r"([A-Za-z_]\w*(?:<[\w, :]*>)?)\s*<<<(.*?)>>>\(\s*(.*?)\);", launch, text, flags=re.S)
    text = text.replace("cudaLaunchKernelEx(", "emulator::LaunchEx(")
    text = re.sub(r"(?<![.\w>])(gridDim|blockDim)\b", r"emulator::\1", text)
    # Its kernel fills arrays for timing, with mathematics that only nvcc has.
    text = re.sub(r"// out\[i\] = mean.*?(?=template <typename T>\nconstexpr DType DTypeOf)", "", text, flags=re.S)
    return '#include "bench/cuda/recurrence_emulator/emulator.h"\n' + text


def main():
    source_root, target_root = map(pathlib.Path, sys.argv[1:3])
    for name in sys.argv[3:]:
        target = target_root / (name + ".cc" if name.endswith(".cu") else name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(convert((source_root / name).read_text()))


if __name__ == "__main__":
    main()
