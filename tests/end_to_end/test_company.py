"""A request gives the same tokens alone and in company."""
import concurrent.futures

from server_process import request

WORDS = ("the old fox went down to the river and said to the king that winter would be long "
         "unless somebody brought him the golden bird from beyond the mountains").split()


def mixed_requests():
    """32 requests, greedy and seeded, prompts of 1 to some 700 tokens, answers of 1 to 64."""
    requests = []
    for i in range(32):
        words = [WORDS[(i * 7 + j * 3) % len(WORDS)] for j in range((i * i * 5) % 600)]
        fields = dict(text=" ".join(["Once", *words]), ignore_eos=True,
                      max_new_tokens=1 + (i * 37) % 64)
        if i % 2:
            fields.update(temperature=0.5 + i / 32, seed=i, top_p=0.9 if i % 4 == 1 else 1.0,
                          top_k=50 if i % 3 == 0 else 0)
        else:
            fields.update(temperature=0)
        if i % 5 == 0:
            fields.update(logprobs=2)
        requests.append(request(**fields))
    return requests


def test_32_concurrent_requests_equal_each_alone(server):
    requests = mixed_requests()
    alone = [list(server.inference.Generate(r).choices[0].token_ids) for r in requests]

    def streamed(one):
        return [t for m in server.inference.GenerateStream(one) for t in m.delta.token_ids]

    with concurrent.futures.ThreadPoolExecutor(len(requests)) as threads:
        together = list(threads.map(streamed, requests))
    assert together == alone


def test_more_requests_than_slots_all_finish(start_server):
    server = start_server(slots=3, max_batch_tokens=40)
    requests = mixed_requests()[:16]
    with concurrent.futures.ThreadPoolExecutor(len(requests)) as threads:
        answers = list(threads.map(server.inference.Generate, requests))
    assert [a.usage.completion_tokens for a in answers] == [r.max_new_tokens for r in requests]
    assert server.metric("fla_state_slots_used") == 0
    assert server.metric("fla_requests_waiting") == 0


def test_priority_decides_who_is_next(start_server):
    server = start_server(slots=1)
    running = server.inference.GenerateStream(
        request(text="Once", ignore_eos=True, max_new_tokens=30000))
    next(running)
    order = []
    calls = []
    for priority in (5, 1, 3):
        call = server.inference.Generate.future(
            request(text="a", max_new_tokens=30, ignore_eos=True, priority=priority))
        call.add_done_callback(lambda _, priority=priority: order.append(priority))
        calls.append(call)
        server.wait_for_metric("fla_requests_waiting", len(calls))
    running.cancel()
    for call in calls:
        call.result()
    server.wait_for_metric("fla_requests_running", 0)
    assert order == [1, 3, 5]
