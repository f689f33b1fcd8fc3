#!/usr/bin/env python3
"""Prints how far the library's own bf16 path is from the golden logits, for each golden checkpoint.

Needs one CUDA GPU, torch, transformers and flash-linear-attention, as make_golden.py does.

  library_bf16.py [NAME ...]

Three figures each, relative Frobenius errors as in tests/model/golden_test.cc: weights rounded to bf16 and everything
else in f32; the library in bf16 by its recurrent kernels; and by the kernels that it takes for long prompts by itself.
"""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "bench" / "cuda"))
import tune_fewer  # noqa: E402, F401  before fla is imported

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402
import fla  # noqa: E402, F401  registers the model types
from fla import models  # noqa: E402

for cls in (models.DeltaNetForCausalLM, models.GatedDeltaNetForCausalLM, models.GLAForCausalLM, models.KDAForCausalLM,
            models.LinearAttentionForCausalLM, models.RetNetForCausalLM):
    cls._tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}  # transformers 5 wants a dict

ROOT = pathlib.Path(__file__).parent


def error(model, expected, mode):
    """Of one pass over both prompts."""
    for module in model.modules():
        if hasattr(module, "mode") and isinstance(module.mode, str):
            module.mode = mode
    with torch.no_grad():
        logits = model(expected["input_ids"].cuda()).logits.double().cpu()
    wanted = expected["logits"].double()
    return ((logits - wanted).norm() / wanted.norm()).item()


def measured(*arguments):
    try:
        return f"{error(*arguments):.2e}"
    except Exception as failure:  # a mode that this op or GPU cannot do
        return f"{type(failure).__name__}: {str(failure)[:60]}"


def load(name, *dtypes):
    """The checkpoint as a model whose parameters go through `dtypes`, one after the other."""
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(ROOT / name)).float()
    model.load_state_dict(load_file(ROOT / name / "model.safetensors"), strict=False)
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.get_input_embeddings().weight
    for dtype in dtypes:
        model = model.to(dtype)
    return model.cuda().eval()


def main():
    names = sys.argv[1:] or sorted(p.parent.name for p in ROOT.glob("*/info.json"))
    torch.set_float32_matmul_precision("highest")
    for name in names:
        expected = load_file(ROOT / name / "expected.safetensors")
        rounded, bf16 = load(name, torch.bfloat16, torch.float32), load(name, torch.bfloat16)
        print(f"{name:26} weights only {measured(rounded, expected, 'fused_recurrent')}, "
              f"recurrent {measured(bf16, expected, 'fused_recurrent')}, chunk {measured(bf16, expected, 'chunk')}", flush=True)


if __name__ == "__main__":
    main()
