"""Models that are loaded at their first use, evicted, unloaded, loaded by hand, or replaced on disk."""
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from checkpoints import byte_sentencepiece, copy_golden, copy_golden_enlarged
from fla.v1 import control_pb2 as control
from server_process import DEVICE, SERVER, request
from test_security import new_key
from swapping import (DRAINING, FAILED, LOADING, PROMPTS, SERVING, UNLOADED, WARMING, answers,
                      edit, greedy, listed, model, serving, wait_for)

MEMORY = "cuda:0" if DEVICE == "cuda" else DEVICE  # as memory_mib calls it
LONG = dict(ids=[1, 2, 3], temperature=0, ignore_eos=True)


def states(server, name):
    return [m.state for m in listed(server, name)]


def loads(server, name):
    return server.log.read_text().count(f"model {name} (") and sum(
        f"model {name} (" in line and ": loading " in line
        for line in server.log.read_text().splitlines())


def mebibytes(info):
    return (info.weight_bytes + info.slots_total * info.state_bytes_per_slot) / 2**20


def error_of(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def stream(server, tokens, name=""):
    """A stream that has begun, and a function that returns its tokens once it has ended."""
    call = server.inference.GenerateStream(
        request(model=name, max_new_tokens=tokens, **LONG), timeout=120)
    first = next(call)
    messages = [first]
    reader = threading.Thread(target=lambda: messages.extend(call))
    reader.start()

    def rest():
        reader.join()
        assert {m.model_version for m in messages} == {first.model_version}
        assert messages[-1].usage.completion_tokens == tokens
        return first.model_version
    return rest


@pytest.fixture
def folders(tmp_path):
    return [copy_golden(name, tmp_path / "models" / name)
            for name in ("gla", "kda", "gated_deltanet", "retnet")]


def test_a_model_on_demand_is_loaded_once_for_all_that_wait(start_server, folders):
    server = start_server(
        models=[model("a", folders[0]), model("b", folders[1], load="on_demand", aliases=["beta"])],
        default_model="a")
    assert states(server, "b") == [UNLOADED]
    with ThreadPoolExecutor(32) as pool:
        answers_ = list(pool.map(
            lambda i: greedy(server, PROMPTS[0], ("b", "beta")[i % 2], 5), range(32)))
    assert len({(a.model, a.model_version, tuple(a.choices[0].token_ids)) for a in answers_}) == 1
    assert answers_[0].model == "b"
    assert loads(server, "b") == 1 and states(server, "b") == [SERVING]
    assert server.tokenize("ab", model="beta") == [97, 98]


def test_the_least_recently_used_is_evicted_and_loses_nothing(start_server, folders):
    names = ["b", "c", "d"]
    models = [model(n, f, load="on_demand", slots=32) for n, f in zip(names, folders[1:])]
    server = start_server(models=[model("a", folders[0], slots=4), *models], default_model="a")
    expected = {n: answers(server, n) for n in names}
    sizes = {n: mebibytes(serving(server, n)) for n in ["a", *names]}
    # Room for any two of the three.
    room = int(sizes["a"] + sum(sorted(sizes[n] for n in names)[1:])) + 1
    assert room < sum(sizes.values())
    edit(server, memory_mib={MEMORY: room})
    server.wait_for_metric("fla_config_reload_total", 1, result="success")
    for name in names:
        server.control.UnloadModel(control.UnloadModelRequest(name=name))
    wait_for(lambda: all(states(server, n) == [UNLOADED] for n in names))

    greedy(server, PROMPTS[0], "b")
    greedy(server, PROMPTS[0], "c")
    greedy(server, PROMPTS[0], "b")
    running = [stream(server, 30000, "c"), stream(server, 30000, "c")]
    greedy(server, PROMPTS[0], "b")
    version = expected["c"][0]
    running_b = stream(server, 10, "b")
    assert running_b() == expected["b"][0]
    # c is in use, so b goes.
    assert answers(server, "d") == expected["d"]
    assert states(server, "b") == [UNLOADED] and SERVING in states(server, "c")
    assert [rest() for rest in running] == [version, version]
    # Everybody wants everything: models come and go, answers stay right.
    with ThreadPoolExecutor(12) as pool:
        for name, got in [(n, pool.submit(answers, server, n)) for n in names * 4]:
            assert got.result() == expected[name]
    assert states(server, "a") == [SERVING]  # pinned
    assert sum(mebibytes(m) for m in listed(server) if m.state in (SERVING, DRAINING)) <= room


def test_what_does_not_fit_is_refused_or_waits_for_the_old_version(start_server, folders):
    server = start_server(models=[model("m", folders[0], slots=96)], default_model="m")
    expected = answers(server)
    room = int(mebibytes(serving(server, "m"))) + 1
    edit(server, memory_mib={MEMORY: room}, models=[model("m", folders[1], slots=17)])
    server.wait_for_metric("fla_config_reload_total", 1, result="failure")
    error = server.control.ListModels(control.ListModelsRequest()).config_error
    assert "needs" in error and "memory_mib" in error
    assert answers(server) == expected

    running = stream(server, 30000)
    edit(server, models=[model("m", folders[1], slots=17, when_full="drain_then_load")])
    wait_for(lambda: states(server, "m") == [DRAINING, FAILED])  # the failure is the last edit's
    code, _ = error_of(lambda: server.inference.Generate(
        request(max_new_tokens=3, **LONG), timeout=0.3))
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(greedy, server, PROMPTS[0], "", 5) for _ in range(8)]
        assert running() == expected[0]
        versions = {w.result().model_version for w in waiting}
    assert versions == {serving(server, "m").version} and versions != {expected[0]}
    server.wait_for_metric("fla_config_reload_total", 1, result="success")

    # A load that fails after the old version has gone: the old one comes back.
    good = answers(server)
    tensors = folders[2] / "model.safetensors"
    data = bytearray(tensors.read_bytes())
    data[len(data) // 2:] = b"\xff" * (len(data) - len(data) // 2)  # NaN: found by warming only
    tensors.write_bytes(data)
    edit(server, models=[model("m", folders[2], slots=8, when_full="drain_then_load")])
    server.wait_for_metric("fla_config_reload_total", 2, result="failure")
    assert "finite" in server.control.ListModels(control.ListModelsRequest()).config_error
    assert answers(server) == good
    assert server.log.read_text().count("unloaded to make room for m") == 2


def test_a_checkpoint_that_changes_in_place_is_noticed(start_server, folders, tmp_path):
    here = tmp_path / "here"
    shutil.copytree(folders[0], here)
    server = start_server(models=[model("m", here)], default_model="m",
                          checkpoint_poll_seconds=0.2)
    old = answers(server)
    for file in ("config.json", "model.safetensors"):
        shutil.copy(folders[1] / file, here / (file + ".new"))
        os.replace(here / (file + ".new"), here / file)
    new = wait_for(lambda: (m := serving(server, "m")) and m.version != old[0] and m)
    assert new.model_type == "kda" and answers(server)[1] != old[1]
    # Broken on disk: what is served stays, however often it is looked at.
    (here / "model.safetensors").write_bytes(b"nothing")
    wait_for(lambda: FAILED in states(server, "m"))
    time.sleep(1)
    assert answers(server)[0] == new.version
    assert server.model_metric("fla_model_swaps_total", "m", result="failure") == 1


def test_sighup_reads_again(start_server, folders, tmp_path):
    here = tmp_path / "here"
    shutil.copytree(folders[0], here)
    server = start_server(models=[model("m", here)], default_model="m", checkpoint_poll_seconds=0)
    old = serving(server, "m").version
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_metric("fla_config_reload_total", 1, result="success")
    assert serving(server, "m").version == old and loads(server, "m") == 1
    os.utime(here / "config.json", ns=(1, 1))
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: (m := serving(server, "m")) and m.version != old)


def test_a_config_map_is_followed(start_server, folders):
    server = start_server(models=[model("m", folders[0])], default_model="m")
    folder = server.config_file.parent
    version = serving(server, "m").version

    def exchange(number, path):
        """As kubelet does it."""
        (folder / f"..{number}").mkdir()
        (folder / f"..{number}/config.json").write_text(
            json.dumps({**server.config, "models": [model("m", path)]}))
        (folder / "..data_tmp").symlink_to(f"..{number}")
        os.replace(folder / "..data_tmp", folder / "..data")

    exchange(1, folders[1])
    (folder / "link").symlink_to("..data/config.json")
    os.replace(folder / "link", server.config_file)
    for number in (2, 3):
        version = wait_for(lambda: (m := serving(server, "m")) and m.version != version and m).version
        exchange(number, folders[number % 2])
    wait_for(lambda: (m := serving(server, "m")) and m.version != version)


def test_loading_and_unloading_by_hand(start_server, folders):
    server = start_server(models=[model("a", folders[0]), model("b", folders[1], load="on_demand")],
                          default_model="a")
    stub = health_pb2_grpc.HealthStub(server.channel)

    def health(name):
        return stub.Check(health_pb2.HealthCheckRequest(service=f"fla.v1.Inference/{name}")).status

    yes, no = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert (health("a"), health("b")) == (yes, yes)
    loaded = server.control.LoadModel(control.LoadModelRequest(name="b"), timeout=60).model
    assert (loaded.name, loaded.state, loaded.model_type) == ("b", SERVING, "kda")

    running = stream(server, 30000, "a")
    server.control.UnloadModel(control.UnloadModelRequest(name="a"))
    assert states(server, "a") == [DRAINING]
    code, details = error_of(lambda: greedy(server, PROMPTS[0], "a"))
    assert code == grpc.StatusCode.UNAVAILABLE and "LoadModel" in details
    assert health("a") == no
    version = running()
    wait_for(lambda: states(server, "a") == [UNLOADED])
    assert server.model_metric("fla_model_info", "a") == 0
    edit(server, default_model="b")  # leaves it unloaded
    server.wait_for_metric("fla_config_reload_total", 1, result="success")
    assert states(server, "a") == [UNLOADED]
    loaded = server.control.LoadModel(control.LoadModelRequest(name="a"), timeout=60).model
    assert loaded.version == version and health("a") == yes

    for call in (server.control.LoadModel, server.control.UnloadModel):
        code, details = error_of(lambda: call(control.LoadModelRequest(name="nobody")))
        assert code == grpc.StatusCode.NOT_FOUND and "a, b" in details
    server.control.UnloadModel(control.UnloadModelRequest(name="b"))
    assert greedy(server, PROMPTS[0], "b").model == "b"  # comes back at its next use
    wait_for(lambda: states(server, "b") == [SERVING])
    server.control.UnloadModel(control.UnloadModelRequest(name="b"))
    (folders[1] / "model.safetensors").write_bytes(b"nothing")
    code, details = error_of(lambda: server.control.LoadModel(control.LoadModelRequest(name="b")))
    assert code == grpc.StatusCode.FAILED_PRECONDITION and "model.safetensors" in details
    code, details = error_of(lambda: greedy(server, PROMPTS[0], "b"))
    assert code == grpc.StatusCode.FAILED_PRECONDITION and "safetensors" not in details
    wait_for(lambda: states(server, "b") == [FAILED])  # the version of before may still be draining


def test_names_change_at_once_when_all_is_there(start_server, folders):
    server = start_server(models=[model("old", folders[0])], default_model="old")
    old, running = answers(server), stream(server, 30000)
    edit(server, default_model="new", models=[model("new", folders[1], aliases=["newer"])])
    wait_for(lambda: serving(server, "new"))
    assert greedy(server, PROMPTS[0]).model == greedy(server, PROMPTS[0], "newer").model == "new"
    code, details = error_of(lambda: greedy(server, PROMPTS[0], "old"))
    assert code == grpc.StatusCode.NOT_FOUND and "wanted one of new," in details
    assert running() == old[0]
    wait_for(lambda: [m.name for m in listed(server)] == ["new"])


def test_sampling_defaults_of_the_config_need_no_load(start_server, folders):
    server = start_server(models=[model("m", folders[0], sampling={"temperature": 0})],
                          default_model="m")
    tokens = list(greedy(server, PROMPTS[0]).choices[0].token_ids)

    def default():
        answer = server.generate(ids=PROMPTS[0], ignore_eos=True, max_new_tokens=40, seed=5)
        return list(answer.choices[0].token_ids)

    assert default() == tokens
    edit(server, models=[model("m", folders[0], sampling={"temperature": 1.5})])
    server.wait_for_metric("fla_config_reload_total", 1, result="success")
    assert default() != tokens and loads(server, "m") == 1


def test_a_server_that_is_killed_in_a_load_starts_again(start_server, folders, tmp_path):
    large = copy_golden_enlarged("gla", tmp_path / "large", 1_000_000)
    server = start_server(models=[model("m", folders[0], slots=2)], default_model="m")
    running = stream(server, 20)
    running()
    edit(server, models=[model("m", large, slots=2)])
    loading = wait_for(lambda: next((m for m in listed(server) if m.state in (LOADING, WARMING)),
                                    None))
    assert 0 <= loading.load_fraction <= 1
    config = tmp_path / "config.json"
    shutil.copy(server.config_file, config)
    server.process.kill()
    assert server.process.wait() == -signal.SIGKILL
    # Again while it starts, and then for good.
    starting = subprocess.Popen([SERVER, "--config", config], stderr=subprocess.PIPE, text=True)
    for line in starting.stderr:
        if ": loading " in line:
            break
    starting.kill()
    starting.communicate()
    # A polite end does not wait for the load either.
    starting = subprocess.Popen([SERVER, "--config", config], stderr=subprocess.PIPE, text=True)
    for line in starting.stderr:
        if ": loading " in line:
            break
    starting.terminate()
    log = starting.communicate()[1]
    assert starting.returncode == 0 and "before the models are loaded" in log
    again = start_server(**json.loads(config.read_text()))
    info = serving(again, "m")
    assert info.version == loading.version and info.vocab_size == 1_000_000
    assert greedy(again, PROMPTS[0], "", 2).usage.completion_tokens == 2
    server.process.returncode = 0  # as wanted


def test_changing_models_wants_an_admins_key(start_server, folders, tmp_path):
    (user, user_line), (admin, admin_line) = new_key("alice", "user"), new_key("ops", "admin")
    keys = tmp_path / "keys"
    keys.write_text(user_line + admin_line)
    server = start_server(models=[model("a", folders[0]), model("b", folders[1], load="on_demand")],
                          default_model="a", api_keys=str(keys))
    weights = (folders[1] / "model.safetensors").read_bytes()
    (folders[1] / "model.safetensors").write_bytes(b"nothing")

    def bearer(key):
        return {"timeout": 60, "metadata": [("authorization", f"Bearer {key}")]}

    def code(call, message, key):
        return error_of(lambda: call(message, **bearer(key)))

    for call, message in [(server.control.LoadModel, control.LoadModelRequest(name="b")),
                          (server.control.UnloadModel, control.UnloadModelRequest(name="a"))]:
        assert code(call, message, user)[0] == grpc.StatusCode.PERMISSION_DENIED
        assert code(call, message, "nobody")[0] == grpc.StatusCode.UNAUTHENTICATED
    status, details = code(server.control.LoadModel, control.LoadModelRequest(name="b"), admin)
    assert status == grpc.StatusCode.FAILED_PRECONDITION and str(folders[1]) in details
    status, details = code(server.inference.Generate, request(model="b", **LONG), user)
    assert status == grpc.StatusCode.FAILED_PRECONDITION and str(tmp_path) not in details
    for key, told in [(admin, True), (user, False)]:
        (failed,) = [m for m in server.control.ListModels(
            control.ListModelsRequest(), **bearer(key)).models if m.state == FAILED]
        assert (str(folders[1]) in failed.failure) == told and failed.failure
    server.control.UnloadModel(control.UnloadModelRequest(name="a"), **bearer(admin))
    # SIGHUP reads the keys again, too.
    (folders[1] / "model.safetensors").write_bytes(weights)
    keys.write_text(admin_line)
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_metric("fla_config_reload_total", 1, result="success")
    assert code(server.control.ListModels, control.ListModelsRequest(), user)[0] == \
        grpc.StatusCode.UNAUTHENTICATED


def test_a_tokenizer_of_sentencepiece_is_served(start_server, tmp_path):
    folder = copy_golden("gla", tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(byte_sentencepiece())
    server = start_server(models=[model("m", folder)], default_model="m")

    def ids_of(text):
        return [257 if byte == ord(" ") else byte + 1 for byte in text.encode()]

    for text in ["", "a  na\u00efve \u65e5\u672c\U0001f642\n", "<0x41> <unk", "\0\t" * 300]:
        assert server.tokenize(text) == ids_of(text)
        assert server.detokenize(ids_of(text)) == text
    by_text, by_ids = (
        server.generate(**prompt, temperature=0, max_new_tokens=5, ignore_eos=True).choices[0]
        for prompt in (dict(text="ab"), dict(ids=ids_of("ab"))))
    assert by_text == by_ids and len(by_text.token_ids) == 5
    # Threads of gRPC encode at once.
    texts = [f"{i} " * (i % 50) for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(server.tokenize, texts)) == list(map(ids_of, texts))
