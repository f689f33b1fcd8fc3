"""Models that are swapped under load, with configurations that are good and bad."""
import ctypes
import json
import os

import pytest
from safetensors.numpy import load_file, save_file

from checkpoints import copy_demo, copy_golden, replace
from fla.v1 import control_pb2 as control
from swapping import (FAILED, SERVING, Load, answers, edit, listed, model, resident_bytes, serving,
                      swap_to, wait_for)

MEMORY_GROWTH = float(os.environ.get("FLA_TEST_MEMORY_GROWTH", 1.01))  # more under sanitizers


def bytes_at_rest(server, paths):
    """With the first model just loaded: how much of its states and workspace was touched is not
    what is asked. The least of some: a thread may have let go of a block after the last one."""
    seen = []
    for _ in range(3):
        swap_to(server, paths[1])
        swap_to(server, paths[0])
        wait_for(lambda: len(listed(server)) == 1)  # the other is freed
        seen.append(resident_bytes(server))
    return min(seen)


def threads(server):
    return len(os.listdir(f"/proc/{server.process.pid}/task"))


@pytest.fixture
def two(tmp_path):
    return copy_demo(tmp_path / "models/a"), copy_golden("kda-d128", tmp_path / "models/b")


def learn(server, paths):
    """{version: tokens} and the versions in the order of the paths; ends on the first path."""
    expected, versions = {}, []
    for path in [*paths[1:], paths[0]]:
        swap_to(server, path)
        version, tokens = answers(server)
        expected[version] = tokens
        versions.append(version)
    assert len({json.dumps(t) for t in expected.values()}) == len(paths)
    return expected, [versions[-1], *versions[:-1]]


def test_fifty_swaps_under_load_lose_nothing(start_server, two):
    server = start_server(models=[model("m", two[0])], default_model="m")
    expected, versions = learn(server, two)
    # What gRPC and the allocator take for good: with many processors threads come for a while.
    warm_up = 0
    while warm_up < 150:
        before = threads(server)
        with Load(server, 32, expected):
            for i in range(1, 31):
                swap_to(server, two[i % 2])
        warm_up += 30
        if threads(server) == before:
            break
    before = bytes_at_rest(server, two)
    with Load(server, 32, expected) as load:
        for i in range(1, 51):
            swap_to(server, two[i % 2], versions[i % 2])
    assert not load.problems, load.problems[:5]
    assert min(load.by_version.get(v, 0) for v in versions) >= 25, load.by_version
    print(f"responses by version: {load.by_version}")
    after = bytes_at_rest(server, two)
    print(f"resident: {before} bytes before, {after} after")
    assert after < MEMORY_GROWTH * before
    assert answers(server) == (versions[0], expected[versions[0]])
    swaps = 2 + warm_up + 6 + 50 + 6
    assert server.model_metric("fla_model_swaps_total", "m", result="success") == swaps
    assert server.model_metric("fla_model_swaps_total", "m", result="failure") == 0
    assert server.model_metric("fla_model_info", "m", version=versions[0]) == 1
    assert server.model_metric("fla_model_info", "m") == 1
    assert server.metric("fla_config_reload_total", result="success") == swaps
    for gauge in ("fla_requests_running", "fla_requests_waiting", "fla_state_slots_used"):
        assert server.metric(gauge) == 0
    assert server.metric("fla_state_slots_total") == 16


def without_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors")


def truncated(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:len(data) * 2 // 3])


def of_another_type(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))


def unreadable(folder):
    (folder / "model.safetensors").chmod(0)


def obey_permissions():
    """A server of root's reads everything, unless it gives that power up."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


BROKEN_FOLDERS = {"no_tensor": (without_tensor, ["up_proj.weight", "is missing"]),
                  "cut": (truncated, ["model.safetensors", "truncated"]),
                  "type": (of_another_type, ["model_type", "gpt2"]),
                  "closed": (unreadable, ["model.safetensors", "Permission denied"])}
BROKEN_CONFIGS = {"json": ["config.json:", "wanted JSON"],
                  "outside": ["models[0].path", "model_root", "../../etc"]}


def test_broken_edits_change_nothing(start_server, tmp_path):
    root = tmp_path / "models"
    paths = [copy_golden("gla", root / "a"), copy_golden("kda", root / "b")]
    for name, (spoil, _) in BROKEN_FOLDERS.items():
        spoil(copy_golden("kda", root / name))
    server = start_server(models=[model("m", paths[0])], default_model="m", model_root=str(root),
                          before_start=obey_permissions)
    expected, versions = learn(server, paths)
    kinds = [*BROKEN_FOLDERS, *BROKEN_CONFIGS] * 2
    with Load(server, 32, expected) as load:
        for i, kind in enumerate(kinds):
            for path, version in [(1, versions[1]), (0, versions[0])]:
                swap_to(server, paths[path], version)
            refused = server.metric("fla_config_reload_total", result="failure")
            log_before = len(server.log.read_text())
            if kind == "json":
                replace(server.config_file, json.dumps(server.config, indent=1)[:-40])
            else:
                edit(server, models=[model("m", "../../etc" if kind == "outside" else root / kind)])
            server.wait_for_metric("fla_config_reload_total", refused + 1, result="failure")
            words = BROKEN_CONFIGS.get(kind) or BROKEN_FOLDERS[kind][1]
            answer = server.control.ListModels(control.ListModelsRequest())
            log = server.log.read_text()[log_before:]
            for word in words:
                assert word in answer.config_error and word in log, (kind, answer, log)
            assert serving(server, "m").version == versions[0]
            failed = [m for m in listed(server, "m") if m.state == FAILED]
            assert bool(failed) == (kind in BROKEN_FOLDERS)
            for one in failed:
                assert all(word in one.failure for word in words)
    assert not load.problems, load.problems[:5]
    assert server.model_metric("fla_model_swaps_total", "m", result="failure") == 8
    edit(server, models=[model("m", paths[0])])  # what is served anyway
    wait_for(lambda: not server.control.ListModels(control.ListModelsRequest()).config_error)
    assert [m.state for m in listed(server)] == [SERVING]
    assert answers(server) == (versions[0], expected[versions[0]])
