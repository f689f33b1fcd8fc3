"""Models that are swapped while Embed requests run."""
import numpy as np

from checkpoints import copy_demo, copy_golden
from swapping import Load, listed, model, swap_to, wait_for
from test_embed import ALL, LAST, MEAN, arrays, difference, embed_request

SWAPS = 12
POOLINGS = (LAST, MEAN, ALL)
# At 64 rows a step the longest takes five of them, and two such requests many more.
INPUTS = [[(7 * i + length) % 256 for i in range(length)] for length in (1, 2, 40, 64, 65, 300)]


def vectors(server):
    """(version, {(pooling, input): vectors}) of what serves now, one by one."""
    versions, alone = set(), {}
    for pooling in POOLINGS:
        for i, ids in enumerate(INPUTS):
            response = server.inference.Embed(embed_request(ids, pooling=pooling), timeout=120)
            versions.add(response.model_version)
            (alone[pooling, i],) = arrays(response)
    (version,) = versions
    return version, alone


class EmbedLoad(Load):
    """Some inputs at a time: each vector must be that of the version which the response names."""

    def ask(self, random_):
        pooling = random_.choice(POOLINGS)
        inputs = [random_.randrange(len(INPUTS)) for _ in range(random_.randint(1, 5))]
        response = self.server.inference.Embed(
            embed_request(*(INPUTS[i] for i in inputs), pooling=pooling), timeout=600)
        version = response.model_version
        got = arrays(response)
        if len(got) != len(inputs):
            return version, f"{len(got)} embeddings of {len(inputs)} inputs"
        for i, one in zip(inputs, got):
            wanted = self.expected[version][pooling, i]
            if one.shape != wanted.shape or not difference(one, wanted) <= 1e-5:
                return version, f"input {i} of {inputs} is not {version}'s"
        return version, None


def test_swaps_under_embed_requests_lose_nothing(start_server, tmp_path):
    """Between models of other sizes, and between two that only their vectors tell apart."""
    paths = [copy_golden("gla", tmp_path / "a"), copy_demo(tmp_path / "b"),
             copy_golden("kda-d128", tmp_path / "c")]
    server = start_server(models=[model("m", paths[0], max_batch_tokens=64)], default_model="m")
    expected, versions = {}, []
    for path in [*paths[1:], paths[0]]:
        swap_to(server, path)
        version, alone = vectors(server)
        expected[version] = alone
        versions.insert(0, version)
    versions = [versions[0], *versions[:0:-1]]
    last = [expected[version][LAST, 5] for version in versions]
    assert last[0].shape == last[2].shape != last[1].shape
    assert difference(last[0], last[2]) > 0.1

    with EmbedLoad(server, 16, expected) as load:
        for i in range(1, SWAPS + 1):
            answered = load.by_version.get(versions[i % 3], 0)
            swap_to(server, paths[i % 3], versions[i % 3])
            wait_for(lambda: load.by_version.get(versions[i % 3], 0) > answered or load.problems)
    assert not load.problems, load.problems[:5]
    print(f"responses by version: {load.by_version}")
    assert set(load.by_version) == set(versions)

    wait_for(lambda: len(listed(server)) == 1)  # the others are freed
    version, alone = vectors(server)
    assert version == versions[SWAPS % 3]
    assert all(np.array_equal(alone[key], expected[version][key]) for key in alone)
    assert server.model_metric("fla_requests_total", "m", finish_reason="error") == 0
    for gauge in ("fla_requests_running", "fla_requests_waiting", "fla_state_slots_used"):
        assert server.metric(gauge) == 0
