#!/usr/bin/env python3
"""Fails where a folder includes what it must not.

The layers: server -> model -> kernels and server -> proto. client -> proto. tests and bench see all.
Nothing outside kernels/ includes a backend (kernels/reference, cpu, cuda) except the tests and
benchmarks of kernels; CUDA headers stay under kernels/cuda; gRPC headers stay in the server's
services and main, and in the client.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUFFIXES = {".h", ".cc", ".cu", ".cuh"}
LAYERS = {
    "kernels": {"kernels"},
    "model": {"model", "kernels"},
    "server": {"server", "model", "kernels", "fla"},  # fla/v1/...: generated from proto/
    "client": {"client", "fla"},
}
FOLDERS = ["kernels", "model", "server", "client", "tests", "bench", "fla"]
BACKENDS = ("kernels/reference/", "kernels/cpu/", "kernels/cuda/")
MAY_INCLUDE_BACKENDS = ("kernels/", "tests/kernels/", "bench/")
GRPC_FILES = re.compile(r"server/(main|engine_call|\w*service\w*|grpc_\w+|health\w*)\.(h|cc)$|client/|tests/server/|tests/fuzz/")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


def complaints(path, text):
    folder = path.split("/")[0]
    for _, target in INCLUDE.findall(text):
        first = target.split("/")[0]
        if folder in LAYERS and first in FOLDERS and first not in LAYERS[folder]:
            yield f"{path} includes {target}: {folder}/ may include only {sorted(LAYERS[folder])}"
        if target.startswith(BACKENDS) and not path.startswith(MAY_INCLUDE_BACKENDS):
            yield f"{path} includes {target}: only kernels/ knows its backends"
        if re.match(r"(cuda|cublas|nvml|cooperative_groups|cutlass|cute/)", target):
            if not path.startswith(("kernels/cuda/", "bench/cuda/")):
                yield f"{path} includes {target}: CUDA headers stay in kernels/cuda"
        if first in ("grpcpp", "grpc") and not GRPC_FILES.search(path):
            yield f"{path} includes {target}: gRPC stays in the services, main and the client"


def self_check():
    """The rules must bite."""
    wrong = {
        "kernels/ops.cc": '#include "model/model.h"',
        "model/model.cc": '#include "server/request.h"',
        "model/mixer.cc": '#include "kernels/cpu/ops.h"',
        "server/engine.cc": "#include <grpcpp/grpcpp.h>",
        "kernels/ops.h": "#include <cuda_runtime.h>",
        "client/cli.cc": '#include "server/request.h"',
    }
    for path, text in wrong.items():
        assert list(complaints(path, text)), f"the rules accept {text} in {path}"
    right = {
        "model/model.cc": '#include "kernels/ops.h"',
        "server/engine.cc": '#include "model/model.h"',
        "server/inference_service.cc": '#include "fla/v1/inference.grpc.pb.h"\n#include <grpcpp/grpcpp.h>',
    }
    for path, text in right.items():
        assert not list(complaints(path, text)), f"the rules refuse {text} in {path}"


def main():
    self_check()
    found, files = [], 0
    for folder in ("kernels", "model", "server", "client", "tests", "bench"):
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in SUFFIXES:
                files += 1
                found += complaints(file.relative_to(ROOT).as_posix(), file.read_text())
    print("\n".join(found) or f"{files} files keep to the layers")
    return 1 if found or not files else 0


if __name__ == "__main__":
    sys.exit(main())
