#!/usr/bin/env python3
"""Times a checkpoint as users run it today: transformers' generate with flash-linear-attention's kernels.

  transformers_generate.py FOLDER [--prefill 1x128,1x2048,8x2048,1x32768] [--decode 1,32,256]

Prints the rows that model_bench prints. Needs a GPU, torch, transformers and flash-linear-attention.
"""
import argparse
import statistics
import time

import tune_fewer  # noqa: F401  before fla is imported
import fla  # noqa: F401  registers the models
import torch
import transformers

NEW_TOKENS = 64
PROMPT = 64


def median_seconds(run, repeats):
    run()
    run()
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--prefill", default="1x128,1x2048,8x2048,1x32768")
    parser.add_argument("--decode", default="1,32,256")
    options = parser.parse_args()
    begin = time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(options.folder, dtype=torch.bfloat16).cuda().eval()
    vocab = model.config.vocab_size
    generator = torch.Generator().manual_seed(1)

    def generate(sequences, length, new_tokens):
        prompt = torch.randint(0, vocab, (sequences, length), generator=generator).cuda()
        with torch.inference_mode():
            model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, pad_token_id=0,
                           min_new_tokens=new_tokens, max_new_tokens=new_tokens)  # fmt: skip

    print(f"transformers {transformers.__version__}, fla {fla.__version__}, {options.folder}")
    first = True
    for shape in options.prefill.split(","):
        sequences, length = map(int, shape.split("x"))
        seconds = median_seconds(lambda: generate(sequences, length, 1), 5)
        if first:
            print(f"first request after {time.perf_counter() - begin:.1f} s, loading included")
        first = False
        print(f"{'prefill':8s} {shape:>10s} {1e3 * seconds:12.3f} {sequences * length / seconds:12.0f}", flush=True)
    for sequences in map(int, options.decode.split(",")):
        short = median_seconds(lambda: generate(sequences, PROMPT, 1), 3)
        seconds = (median_seconds(lambda: generate(sequences, PROMPT, NEW_TOKENS), 2) - short) / (NEW_TOKENS - 1)
        print(f"{'decode':8s} {sequences:10d} {1e3 * seconds:12.3f} {sequences / seconds:12.0f}", flush=True)


if __name__ == "__main__":
    main()
