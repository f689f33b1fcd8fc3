"""Stubs of fla.v1 made from proto/, and servers to talk to."""
import pathlib
import sys
import tempfile

import grpc_tools
import pytest
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]


def generate_stubs(target):
    """What a client in Python would do with our .proto files."""
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    sources = sorted((ROOT / "proto" / "fla").rglob("*.proto"))
    code = protoc.main(["protoc", f"--proto_path={ROOT / 'proto'}", f"--proto_path={well_known}",
                        f"--python_out={target}", f"--grpc_python_out={target}",
                        *map(str, sources)])
    assert code == 0, "protoc failed"


_stubs = tempfile.TemporaryDirectory(prefix="fla-stubs-")
generate_stubs(_stubs.name)
sys.path.insert(0, _stubs.name)

from server_process import ServerProcess  # noqa: E402  (needs the stubs)


@pytest.fixture(scope="session")
def server():
    """The demonstration model, as configs/demo.json serves it but for the ports."""
    with ServerProcess() as running:
        yield running


@pytest.fixture
def start_server():
    """Starts servers with changes to the configuration: start_server(slots=1, limits={...})."""
    started = []

    def start(**changes):
        started.append(ServerProcess(**changes))
        return started[-1].__enter__()

    yield start
    for one in started:
        one.__exit__(None, None, None)
