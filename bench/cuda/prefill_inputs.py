"""Inputs of a prefill, and what must come out of it in double precision."""
import dataclasses

import torch
import torch.nn.functional as F

from prefill_library import DELTA
from prefill_rows import Row

LOWER_BOUND = -5.0  # of KDA's gate, as FlashKDA and cuLA want it


@dataclasses.dataclass
class RawKda:
    """What a KDA layer's projections leave; the peers' kernels that fuse the gate take these."""
    q: torch.Tensor  # [T, H, K] bf16, any norm
    k: torch.Tensor  # [T, H, K] bf16, any norm
    gate: torch.Tensor  # [T, H, K] bf16: log decay = lower_bound sigmoid(exp(a_log) (gate + dt_bias))
    beta: torch.Tensor  # [T, H] bf16, before the sigmoid
    a_log: torch.Tensor  # [H] f32
    dt_bias: torch.Tensor  # [H, K] f32
    lower_bound: float = LOWER_BOUND

    def log_decay(self, dtype):
        gate = self.gate.to(dtype) + self.dt_bias.to(dtype)
        return self.lower_bound * torch.sigmoid(self.a_log.to(dtype).exp()[:, None] * gate)


@dataclasses.dataclass
class Inputs:
    q: torch.Tensor  # [T, qk_heads, K] bf16 of norm 1
    k: torch.Tensor  # [T, qk_heads, K] bf16 of norm 1
    v: torch.Tensor  # [T, H, V] bf16
    log_decay: torch.Tensor  # f32: [T, H, K] kda, gla; [T, H] gdn, simple_gla; [H] retention; else None
    beta: torch.Tensor  # [T, H] bf16, only for the delta rule
    raw: RawKda = None  # kda: log_decay and beta are made from it, and q and k


def make_inputs(row: Row, seed=1, device="cuda"):
    """Decays from a token's memory to thousands of tokens'."""
    random = torch.Generator(device).manual_seed(seed)
    tokens, heads, key_dim = row.tokens, row.heads, row.key_dim

    def normal(*shape, dtype=torch.bfloat16):
        return torch.randn(shape, generator=random, device=device, dtype=dtype)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(shape, generator=random, device=device)

    raw, log_decay, beta = None, None, None
    q, k = normal(tokens, row.qk_heads, key_dim), normal(tokens, row.qk_heads, key_dim)
    v = normal(tokens, heads, row.value_dim)
    if row.op in DELTA:
        beta = normal(tokens, heads)
    if row.op == "kda":
        raw = RawKda(q, k, normal(tokens, heads, key_dim), beta, uniform(0, 1, heads), uniform(-8, 1, heads, key_dim))
        log_decay = raw.log_decay(torch.float32)
    elif row.op == "gla":
        log_decay = F.logsigmoid(normal(tokens, heads, key_dim, dtype=torch.float32)) / 16
    elif row.op in ("gdn", "simple_gla"):
        rate = uniform(-6, 0, heads).exp()
        log_decay = rate * F.logsigmoid(normal(tokens, heads, dtype=torch.float32))
    elif row.op == "retention":
        log_decay = (1 - 2.0 ** (-5 - torch.arange(heads, dtype=torch.float32, device=device))).log()
    q, k = (F.normalize(x.float(), dim=-1).to(torch.bfloat16) for x in (q, k))
    return Inputs(q, k, v, log_decay, beta.float().sigmoid().to(torch.bfloat16) if beta is not None else None, raw)


def reference(row: Row, inputs: Inputs, raw=False):
    """out [T, H, V] and the final state [N, H, K, V] by the definition of kernels/recurrence.h, token by token in
    double precision. `raw`: from inputs.raw."""
    q, k, log_decay, beta = inputs.q, inputs.k, inputs.log_decay, inputs.beta
    if raw:
        q, k = (F.normalize(x.double(), dim=-1) for x in (inputs.raw.q, inputs.raw.k))
        log_decay, beta = inputs.raw.log_decay(torch.float64), inputs.raw.beta.double().sigmoid()
    # [longest length, sequences, ...]: token t of every sequence is one slice, and with the longest sequences first,
    # those that still have a token t are the first ones.
    order = sorted(range(len(row.lengths)), key=lambda n: -row.lengths[n])
    lengths = [row.lengths[n] for n in order]

    def by_token(x):
        padded = torch.zeros(lengths[0], len(order), *x.shape[1:], dtype=torch.float64, device=x.device)
        for i, n in enumerate(order):
            padded[:row.lengths[n], i] = x[row.cu_seqlens[n]:row.cu_seqlens[n + 1]]
        return padded.flatten(1, 2)  # [longest length, sequences * heads, ...]

    heads, group = row.heads, row.heads // row.qk_heads
    q, k = (by_token(x.repeat_interleave(group, 1)) for x in (q, k))
    v = by_token(inputs.v)
    alpha = None
    if row.op == "retention":
        alpha = log_decay.double().exp().repeat(len(order)).expand(lengths[0], -1)[..., None]
    elif log_decay is not None:
        alpha = by_token(log_decay).exp().view(lengths[0], len(order) * heads, -1)
    written = k
    if row.op in DELTA:
        beta = by_token(beta)[..., None]
        v, written = v * beta, k * beta
    state = torch.zeros(len(order) * heads, row.key_dim, row.value_dim, dtype=torch.float64, device=v.device)
    out = torch.empty_like(v)
    active = len(order) * heads
    for t in range(lengths[0]):
        while lengths[active // heads - 1] <= t:
            active -= heads
        s, kt, u = state[:active], k[t, :active, None, :], v[t, :active, None, :]
        if alpha is not None:
            s *= alpha[t, :active, :, None]
        if row.op in DELTA:
            u = torch.baddbmm(u, written[t, :active, None, :], s, alpha=-1)  # beta (v - S^T k)
        s.baddbmm_(kt.mT, u)
        torch.bmm(q[t, :active, None, :], s, out=out[t, :active, None, :])
    out = out.unflatten(1, (len(order), heads)) * row.key_dim ** -0.5
    wanted = torch.empty(row.tokens, heads, row.value_dim, dtype=torch.float64, device=v.device)
    final = torch.empty_like(state).unflatten(0, (len(order), heads))
    for i, n in enumerate(order):
        wanted[row.cu_seqlens[n]:row.cu_seqlens[n + 1]] = out[:row.lengths[n], i]
        final[n] = state.unflatten(0, (len(order), heads))[i]
    return wanted, final


def relative_error(x, wanted):
    """Of Frobenius norms; NaN where x has one."""
    return ((x.double() - wanted).norm() / wanted.norm()).item()
