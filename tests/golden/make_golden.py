#!/usr/bin/env python3
"""Writes the golden checkpoints: tiny random models saved by the flash-linear-attention library itself, each with
the logits and greedy tokens that the library gives for them.

Needs one CUDA GPU, torch, transformers, safetensors and flash-linear-attention (0.5.2 or later). About 3 minutes.

  make_golden.py --out DIR [--only NAME ...]

Each DIR/NAME holds config.json and model.safetensors (f32), and expected.safetensors:
  input_ids [2,150] i64   random token ids
  logits    [2,150,V] f32 the recurrence stepped one token at a time in f32 (no tensor-core rounding)
  greedy    [2,24] i64    greedy continuation of both rows
info.json says how far the library's own paths are from these (relative Frobenius error) and with which versions.
"""
import argparse, json, os, sys, time, traceback

import torch
import triton

# Compile two tuning candidates a kernel instead of all of them: seconds instead of minutes. Results do not depend on it.
_autotune = triton.autotune
triton.autotune = lambda configs, *a, **k: _autotune(
    [configs[len(configs) // 3], configs[2 * len(configs) // 3]] if len(configs) > 2 else configs, *a, **k)

import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
import fla  # noqa: F401  registers the model types
from fla import models as F

for cls in (F.DeltaNetForCausalLM, F.GatedDeltaNetForCausalLM, F.GLAForCausalLM, F.KDAForCausalLM,
            F.LinearAttentionForCausalLM, F.RetNetForCausalLM):
    cls._tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}  # transformers 5 wants a dict

SMALL = dict(vocab_size=256, hidden_size=64, num_hidden_layers=2, intermediate_size=128, attn_mode="fused_recurrent",
             fuse_cross_entropy=False, initializer_range=0.11)
CASES = {
    "linear_attn-elu": lambda: F.LinearAttentionConfig(num_heads=2, feature_map="elu", **SMALL),
    "linear_attn-relu-normqk": lambda: F.LinearAttentionConfig(num_heads=4, feature_map="relu", norm_q=True, norm_k=True, **SMALL),
    "linear_attn-identity-mqa": lambda: F.LinearAttentionConfig(num_heads=2, num_kv_heads=1, feature_map="identity", **SMALL),
    "linear_attn-hadamard": lambda: F.LinearAttentionConfig(num_heads=2, feature_map="elementwise_product", **SMALL),
    "retnet": lambda: F.RetNetConfig(num_heads=4, expand_k=1.0, expand_v=2.0, **SMALL),
    "retnet-mqa-nogate": lambda: F.RetNetConfig(num_heads=4, num_kv_heads=2, use_output_gate=False, **SMALL),
    "gla": lambda: F.GLAConfig(num_heads=2, **SMALL),
    "gla-conv-mqa-tied": lambda: F.GLAConfig(num_heads=4, num_kv_heads=2, use_short_conv=True, clamp_min=-0.5, tie_word_embeddings=True, **SMALL),
    "gla-k64-v128": lambda: F.GLAConfig(num_heads=1, expand_k=1.0, expand_v=2.0, **SMALL),
    "delta_net": lambda: F.DeltaNetConfig(num_heads=2, **SMALL),
    "delta_net-gate-neg": lambda: F.DeltaNetConfig(num_heads=4, use_gate=True, allow_neg_eigval=True, **SMALL),
    "gated_deltanet": lambda: F.GatedDeltaNetConfig(num_heads=2, head_dim=64, expand_v=2, **SMALL),
    "gated_deltanet-gva": lambda: F.GatedDeltaNetConfig(num_heads=2, num_v_heads=4, head_dim=32, expand_v=1, allow_neg_eigval=True, **SMALL),
    "kda": lambda: F.KDAConfig(num_heads=2, head_dim=64, **SMALL),
    "kda-lowerbound": lambda: F.KDAConfig(num_heads=4, head_dim=32, safe_gate=True, lower_bound=-5.0, **SMALL),
    "kda-d128": lambda: F.KDAConfig(num_heads=1, head_dim=128, **SMALL),
}


def randomise(model, seed):
    """Norm weights, biases and some A_log start at constants; make them count."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if "norm" in name:
            p.data = (1 + 0.2 * torch.randn(p.shape, generator=g)).to(p)
        elif name.endswith("bias") and "dt_bias" not in name:
            p.data = (0.2 * torch.randn(p.shape, generator=g)).to(p)
        elif name.endswith("A_log") and not p.any():  # KDA with lower_bound starts it at zero
            p.data = (0.5 * torch.randn(p.shape, generator=g)).to(p)


def save(model, folder):
    os.makedirs(folder, exist_ok=True)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})


@torch.inference_mode()
def golden(name, config, root):
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    model = AutoModelForCausalLM.from_config(config)
    randomise(model, 7)
    model = model.float().to("cuda").eval()
    if config.tie_word_embeddings:
        model.lm_head.weight = model.get_input_embeddings().weight
    ids = torch.randint(3, config.vocab_size, (2, 150), generator=torch.Generator().manual_seed(11)).to("cuda")
    past, steps = None, []
    for t in range(ids.shape[1]):
        r = model(ids[:, t:t + 1], past_key_values=past, use_cache=True)
        past = r.past_key_values
        steps.append(r.logits[:, -1].float())
    logits = torch.stack(steps, 1)
    greedy, token = [], logits[:, -1].argmax(-1)
    for _ in range(24):
        greedy.append(token)
        r = model(token[:, None], past_key_values=past, use_cache=True)
        past, token = r.past_key_values, r.logits[:, -1].float().argmax(-1)
    whole = model(ids, use_cache=False).logits.float()
    info = dict(model=name, parameters=sum(p.numel() for p in model.parameters()), logits_std=float(logits.std()),
                whole_prompt_rel_err=float((whole - logits).norm() / logits.norm()), finite=bool(torch.isfinite(logits).all()),
                fla=getattr(fla, "__version__", "?"), torch=torch.__version__, transformers=transformers.__version__)
    folder = os.path.join(root, name)
    save(model, folder)
    save_file({"input_ids": ids.cpu().contiguous(), "logits": logits.cpu().contiguous(), "greedy": torch.stack(greedy, 1).cpu().contiguous()},
              os.path.join(folder, "expected.safetensors"))
    json.dump(info, open(os.path.join(folder, "info.json"), "w"), indent=1)
    print(json.dumps(info), flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", required=True)
    ap.add_argument("--only", nargs="*")
    args = ap.parse_args()
    failed = []
    for name in args.only or CASES:
        start = time.time()
        try:
            golden(name, CASES[name](), args.out)
        except Exception:
            failed.append(name)
            traceback.print_exc(limit=4)
        print(f"# {name} {time.time() - start:.1f} s", flush=True)
    if failed:
        sys.exit(f"failed: {' '.join(failed)}")


if __name__ == "__main__":
    main()
