"""The prefill kernels of other libraries, on the rows that each says it can do.

A peer is a function of (row, inputs, raw) that gives a function of no arguments, or None where the library does not
claim the row. That one runs the row and returns out, of [T, H, V] elements, and the final state [N, H, K, V]. No initial
state goes in. `raw`: from what a KDA layer's projections leave (RawKda), where the library's kernels take it.

A peer imports its library for the first row that it takes: an absent one is an ImportError there.
"""
import os

import torch

# fla would hand its calls to two of the others where they are installed.
for _backend in ("FLA_FLASH_KDA", "FLA_FLASH_QLA", "FLA_TILELANG"):
    os.environ[_backend] = "0"


def _batched(row, x):
    """[T, ...] as the [N, T / N, ...] or, with cu_seqlens, [1, T, ...] that most libraries take."""
    return x.unflatten(0, (len(row.lengths), -1)) if row.batched else x[None]


def _cu_seqlens(row, dtype):
    return torch.tensor(row.cu_seqlens, dtype=dtype, device="cuda")


def fla(row, inputs, raw=False):
    if raw and row.op != "kda":
        return None
    import tune_fewer  # noqa: F401  before fla
    source = inputs.raw if raw else inputs
    q, k, v = (_batched(row, x) for x in (source.q, source.k, inputs.v))
    beta = _batched(row, source.beta) if source.beta is not None else None
    g = _batched(row, inputs.log_decay) if row.op in ("kda", "gdn", "gla", "simple_gla") else None
    options = dict(output_final_state=True)
    if not row.batched:
        options["cu_seqlens"] = _cu_seqlens(row, torch.int64)
    if row.op == "kda":
        from fla.ops.kda import chunk_kda
        options["safe_gate"] = True  # decays are above LOWER_BOUND
        if raw:
            options |= dict(use_gate_in_kernel=True, use_qk_l2norm_in_kernel=True, use_beta_sigmoid_in_kernel=True,
                            A_log=source.a_log, dt_bias=source.dt_bias, lower_bound=source.lower_bound)
            g = _batched(row, source.gate)
        return lambda: chunk_kda(q, k, v, g, beta, **options)
    if row.op == "gdn":
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule
        return lambda: chunk_gated_delta_rule(q, k, v, g, beta, **options)
    if row.op == "delta":
        from fla.ops.delta_rule import chunk_delta_rule
        return lambda: chunk_delta_rule(q, k, v, beta, **options)
    if row.op == "gla":
        from fla.ops.gla import chunk_gla
        return lambda: chunk_gla(q, k, v, g, **options)
    if row.op == "simple_gla":
        from fla.ops.simple_gla import chunk_simple_gla
        return lambda: chunk_simple_gla(q, k, v, g, **options)
    if row.op == "retention":
        from fla.ops.retention import chunk_retention
        return lambda: chunk_retention(q, k, v, **options)
    from fla.ops.linear_attn import chunk_linear_attn
    return lambda: chunk_linear_attn(q, k, v, normalize=False, **options)


def flash_kda(row, inputs, raw=False):
    if row.op != "kda" or not raw:  # norms, gate and sigmoid are inside its kernels
        return None
    import flash_kda as library
    x = inputs.raw
    q, k, v, gate, beta = (_batched(row, t) for t in (x.q, x.k, inputs.v, x.gate, x.beta))
    out = torch.empty_like(v)
    state = torch.empty(len(row.lengths), row.heads, row.value_dim, row.key_dim, device="cuda")
    cu_seqlens = None if row.batched else _cu_seqlens(row, torch.int64)

    def call():
        library.fwd(q, k, v, gate, beta, row.key_dim ** -0.5, out, A_log=x.a_log, dt_bias=x.dt_bias,
                    lower_bound=x.lower_bound, final_state=state, cu_seqlens=cu_seqlens)
        return out, state.mT

    return call


def cula(row, inputs, raw=False):
    if row.op != "kda":
        return None
    from cula.kda.hopper_fused_fwd import cula_kda_prefill
    source = inputs.raw if raw else inputs
    # Its beta has had its sigmoid in any case.
    q, k, v, beta = (_batched(row, x) for x in (source.q, source.k, inputs.v, inputs.beta))
    options = dict(output_final_state=True, safe_gate=True,
                   cu_seqlens=None if row.batched else _cu_seqlens(row, torch.int32))
    g = _batched(row, source.gate if raw else inputs.log_decay)
    if raw:
        options |= dict(use_gate_in_kernel=True, use_qk_l2norm_in_kernel=True, A_log=source.a_log,
                        dt_bias=source.dt_bias.flatten(), lower_bound=source.lower_bound)

    def call():
        out, state = cula_kda_prefill(q, k, v, g, beta, **options)
        return out, state.mT

    return call


def flash_qla(row, inputs, raw=False):
    if row.op not in ("gdn", "delta") or row.key_dim != 128 or raw:
        return None
    from flash_qla import chunk_gated_delta_rule
    decay = inputs.log_decay if row.op == "gdn" else torch.zeros(row.tokens, row.heads, device="cuda")
    q, k, v, g, beta = (_batched(row, x) for x in (inputs.q, inputs.k, inputs.v, decay, inputs.beta))
    cu_seqlens = None if row.batched else _cu_seqlens(row, torch.int32)
    return lambda: chunk_gated_delta_rule(q, k, v, g, beta, output_final_state=True, cu_seqlens=cu_seqlens,
                                          enable_fwd_cp_cache=False)


def flashinfer(row, inputs, raw=False):
    if row.op not in ("gdn", "delta") or row.key_dim != 128 or raw:
        return None
    from flashinfer.gdn_prefill import chunk_gated_delta_rule
    decay = inputs.log_decay.exp() if row.op == "gdn" else None
    beta, cu_seqlens = inputs.beta.float(), _cu_seqlens(row, torch.int64)
    out = torch.empty_like(inputs.v)
    state = torch.empty(len(row.lengths), row.heads, row.value_dim, row.key_dim, device="cuda")

    def call():
        chunk_gated_delta_rule(inputs.q, inputs.k, inputs.v, decay, beta, output_final_state=True,
                               cu_seqlens=cu_seqlens, output=out, output_state=state)
        return out, state.mT

    return call


PEERS = dict(fla=fla, flash_kda=flash_kda, cula=cula, flash_qla=flash_qla, flashinfer=flashinfer)
