"""What tests of swapped models share: edits, observations, and a load that checks each answer."""
import json
import random
import threading
import time

import grpc

from checkpoints import replace
from fla.v1 import control_pb2 as control
from server_process import DEVICE, request

LONGEST = 40
PROMPTS = [[1, 2, 3], [200], list(range(60, 130)), [7, 7, 7, 7, 7, 9, 11]]
LOADING, WARMING, SERVING, DRAINING, FAILED, UNLOADED = range(1, 7)


def model(name, path, **others):
    return {"name": name, "path": str(path), "device": DEVICE, "slots": 16, **others}


def edit(server, **changes):
    server.config.update(changes)
    replace(server.config_file, json.dumps(server.config, indent=1))


def listed(server, name=None):
    answer = server.control.ListModels(control.ListModelsRequest(), timeout=60)
    return [m for m in answer.models if name in (None, m.name)]


def serving(server, name):
    return next((m for m in listed(server, name) if m.state == SERVING), None)


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)
    return value


def greedy(server, prompt, name="", tokens=LONGEST, **fields):
    return server.generate(ids=prompt, model=name, temperature=0, ignore_eos=True,
                           max_new_tokens=tokens, **fields)


def answers(server, name=""):
    """(version, tokens for each prompt) of what serves now."""
    all_ = [greedy(server, prompt, name) for prompt in PROMPTS]
    assert len({a.model_version for a in all_}) == 1
    return all_[0].model_version, [list(a.choices[0].token_ids) for a in all_]


def resident_bytes(server):
    status = open(f"/proc/{server.process.pid}/status").read()
    return 1024 * int(status.split("VmRSS:")[1].split()[0])


class Load:
    """Streams in a loop, each checked: whole from one version, whose tokens it has."""

    def __init__(self, server, streams, expected, names=("",)):
        self.server, self.expected, self.names = server, expected, names
        self.problems, self.by_version = [], {}
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(i,)) for i in range(streams)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join()

    def run(self, seed):
        random_ = random.Random(seed)
        while not self.stopping.is_set():
            try:
                version, problem = self.ask(random_)
            except grpc.RpcError as error:
                self.problems.append(f"{error.code()}: {error.details()}")
                continue
            if problem:
                self.problems.append(problem)
            self.by_version[version] = self.by_version.get(version, 0) + 1

    def ask(self, random_):
        """The version that a request got, and what was wrong with its answer, if anything."""
        prompt, length = random_.randrange(len(PROMPTS)), random_.randint(1, LONGEST)
        messages = list(self.server.inference.GenerateStream(
            request(ids=PROMPTS[prompt], model=random_.choice(self.names), temperature=0,
                    ignore_eos=True, max_new_tokens=length), timeout=120))
        versions = {m.model_version for m in messages}
        tokens = [t for m in messages for t in m.delta.token_ids]
        version = next(iter(versions))
        if len(versions) != 1:
            return version, f"versions {versions} in one response"
        if tokens != self.expected[version][prompt][:length]:
            return version, f"tokens that are not those of {version}: {tokens}"
        return version, None


def swap_to(server, path, version=None):
    """Edits the path of the only model; returns when what is there serves."""
    before = serving(server, "m").version
    edit(server, models=[model("m", path)])
    now = wait_for(lambda: (m := serving(server, "m")) and m.version != before and m)
    assert version in (None, now.version)
    return now.version
