"""A thousand clients that do what clients do when they go wrong, and a server that does not mind."""
import concurrent.futures
import os
import pathlib
import random
import subprocess
import sys
import time

import pytest

from raw_client import RawClient
from server_process import request

CLIENTS = 1000
AT_A_TIME = 48  # more than there are slots
KILLED_AT_A_TIME = 10
MEMORY_GROWTH = float(os.environ.get("FLA_TEST_MEMORY_GROWTH", 1.01))  # more under sanitizers
CONTROL = dict(text="The old house stood at the end of the lane, and", ignore_eos=True, max_new_tokens=40,
               seed=11, logprobs=3, prompt_logprobs=2, n=2)


def long_request(rng):
    return request(ids=[rng.randrange(1, 4096) for _ in range(rng.choice([1, 5, 40, 700]))],
                   ignore_eos=True, max_new_tokens=20000, logprobs=rng.choice([None, 5]),
                   n=rng.choice([1, 1, 1, 3]), priority=rng.choice([-1, 0, 5])).SerializeToString()


def read(client, count):
    for _ in zip(range(count), client.messages()):
        pass


def cancels(port, rng):
    client = RawClient(port)
    client.call()
    client.send(long_request(rng))
    read(client, rng.randrange(6))
    client.cancel()
    client.close()


def vanishes(port, rng):
    client = RawClient(port)
    client.call()
    client.send(long_request(rng))
    read(client, rng.randrange(6))
    client.reset()


def closes_its_half(port, rng):
    """Of the connection; that of the stream every client closes."""
    client = RawClient(port)
    client.call()
    client.send(long_request(rng))
    read(client, rng.randrange(3))
    client.shut_down_sending()
    read(client, 1000000)
    client.close()


def never_asks(port, rng):
    client = RawClient(port)
    client.call()
    client.send(long_request(rng), part=rng.choice([0.0, 0.5, 0.9]))
    time.sleep(rng.uniform(0, 0.1))
    rng.choice([client.close, client.reset, client.cancel, client.shut_down_sending])()
    client.close()


def stalls(port, rng):
    client = RawClient(port, window=rng.choice([0, 100, 65535]))
    client.call()
    client.send(long_request(rng))
    time.sleep(rng.uniform(0, 1.0))
    rng.choice([client.close, client.reset])()


def runs_out_of_time(port, rng):
    client = RawClient(port)
    client.call(timeout=f"{rng.randrange(1, 300)}m")
    client.send(long_request(rng))
    read(client, 1000000)
    client.close()


def talks_nonsense(port, rng):
    client = RawClient(port)
    try:
        client.call()
        client.socket.sendall(rng.randbytes(rng.randrange(1, 4000)))
        read(client, 10)
    except ConnectionError:
        pass
    client.close()


def sends_no_message(port, rng):
    client = RawClient(port)
    client.call()
    client.send(rng.randbytes(rng.randrange(200)))
    read(client, 10)
    client.close()


def only_connects(port, rng):
    client = RawClient(port)
    time.sleep(rng.uniform(0, 0.1))
    client.close()


FAULTS = [cancels, cancels, cancels, vanishes, vanishes, closes_its_half, never_asks, stalls,
          runs_out_of_time, talks_nonsense, sends_no_message, only_connects]


def die_by_sigkill(port, rng):
    """KILLED_AT_A_TIME clients of one process."""
    script = pathlib.Path(__file__).with_name("raw_client.py")
    process = subprocess.Popen([sys.executable, script, str(port), str(KILLED_AT_A_TIME)],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        process.stdin.write(long_request(rng))
        process.stdin.close()
        assert process.stdout.readline() == b"streaming\n"
        time.sleep(rng.uniform(0, 0.3))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def misbehave(port, clients, seed):
    rng = random.Random(seed)
    killed = clients // 10 // KILLED_AT_A_TIME
    jobs = [rng.choice(FAULTS) for _ in range(clients - killed * KILLED_AT_A_TIME)]
    jobs += [die_by_sigkill] * killed
    rng.shuffle(jobs)
    with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
        running = [pool.submit(job, port, random.Random(rng.random())) for job in jobs]
        for one in running:
            one.result()


def resident_bytes(server):
    pages = int(pathlib.Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_files(server):
    return len(list(pathlib.Path(f"/proc/{server.process.pid}/fd").iterdir()))


def answer(server):
    """What the control request gives, without the times that it took."""
    response = server.generate(**CONTROL)
    response.ClearField("timings")
    return response.SerializeToString(deterministic=True)


def wait_until_idle(server):
    server.wait_for_metric("fla_requests_waiting", 0)
    server.wait_for_metric("fla_requests_running", 0)
    server.wait_for_metric("fla_state_slots_used", 0)


@pytest.mark.slow
def test_a_thousand_faulty_clients(start_server):
    server = start_server(log={"requests": False}, limits={"max_queued_requests": 2048})
    port = int(server.address.rpartition(":")[2])
    expected = answer(server)
    # The allocator's pools, gRPC's threads and the model's buffers grow to their size first.
    for seed in (1, 3):
        misbehave(port, CLIENTS, seed)
    wait_until_idle(server)
    assert answer(server) == expected
    time.sleep(1)
    resident, files = resident_bytes(server), open_files(server)

    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        faults = pool.submit(misbehave, port, CLIENTS, 2)
        # A good neighbour gets its tokens all the while; its place in the line is in front.
        neighbours = 0
        while not faults.done():
            response = server.generate(priority=-100, **CONTROL)
            response.ClearField("timings")
            assert response.SerializeToString(deterministic=True) == expected
            neighbours += 1
        faults.result()
    assert neighbours > 1, "none was answered while the faults went on"
    seconds = time.monotonic() - begin

    wait_until_idle(server)
    assert answer(server) == expected
    time.sleep(1)
    growth = resident_bytes(server) / resident - 1
    print(f"{CLIENTS} faulty clients in {seconds:.1f} s beside {neighbours} good requests; "
          f"{resident / 1e6:.1f} MB resident, {growth:+.2%}")
    assert growth <= MEMORY_GROWTH - 1, "memory has not come back"
    assert open_files(server) <= files
    # Nothing but what was asked for ended the requests.
    for reason in ("error", "unavailable"):
        assert server.metric("fla_requests_total", finish_reason=reason) == 0
    assert server.metric("fla_state_nonfinite_total") == 0
    assert server.metric("fla_admission_rejections_total", reason="queue_full") == 0
