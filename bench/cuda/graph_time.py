"""How long a call takes on the GPU, the same way for everything that is compared."""
import statistics
import time

import torch


def median_ms(call, calls=4, stream=None, replays=7):
    """Median milliseconds of `call` in `replays` replays of a CUDA graph of `calls` of them, after a warm-up.
    `stream`: where `call` queues its work; None if that is torch's current stream."""
    stream = stream or torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        for _ in range(calls):
            call()
    with torch.cuda.stream(stream):
        end_of_warm_up = time.perf_counter() + 0.01  # an idle GPU's clocks take some milliseconds to rise
        while time.perf_counter() < end_of_warm_up:
            graph.replay()
            stream.synchronize()
        return statistics.median(_milliseconds(graph.replay, stream) / calls for _ in range(replays))


def _milliseconds(work, stream):
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record(stream)
    work()
    end.record(stream)
    end.synchronize()
    return begin.elapsed_time(end)


def queued_ms(call, calls=10, stream=None, repeats=5):
    """For what no graph can record: milliseconds of `call` among `calls` of them queued at once, the median of `repeats`
    after a warm-up. Includes what the host needs, where the GPU waits for it."""
    stream = stream or torch.cuda.current_stream()

    def work():
        for _ in range(calls):
            call()

    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
        return statistics.median(_milliseconds(work, stream) / calls for _ in range(repeats))
