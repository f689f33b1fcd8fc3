"""Edifice's FlashLinearAttention and LightningAttention in NumPy float64, written from their description.

Nothing is carried from token to token: every token looks at the whole sequence before it. Shares no code and no
shortcut with the server.
"""
import json
import math
import struct

import numpy as np

BLOCK_NAMES = {"flash_linear_attention": "fla_block", "lightning_attention": "lightning_block"}
EPS = 1e-8


def layer_norm(x, gamma, beta, eps=1e-5):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * gamma + beta


_erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu(x):
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def feature_map(name, x):
    if name == "elu":
        return np.where(x > 0, 1 + x, np.exp(np.minimum(x, 0)))
    if name == "relu":
        return np.maximum(x, 0) + 1e-6
    assert name == "identity", name
    return x


def head_attention(config, q, k, v):
    """One head: q, k [T, K], v [T, V] -> [T, V]."""
    chunk = config.get("chunk_size", 64)
    lightning = config["model_type"] == "lightning_attention"
    if not lightning:
        q = feature_map(config.get("feature_map", "elu"), q)
        k = feature_map(config.get("feature_map", "elu"), k)
    normalization = config.get("normalization", "split")
    out = np.zeros_like(v)
    for t in range(len(q)):
        begin = t // chunk * chunk
        inside, outside = k[begin:t + 1] @ q[t], k[:begin] @ q[t]
        sum_inside, sum_outside = inside @ v[begin:t + 1], outside @ v[:begin]
        if lightning:
            weights = np.exp((inside - inside.max()) * q.shape[1] ** -0.5)
            out[t] = weights / weights.sum() @ v[begin:t + 1] + sum_outside / (outside.sum() + EPS)
        elif normalization == "split":
            out[t] = sum_inside / (inside.sum() + EPS) + sum_outside / (outside.sum() + EPS)
        elif normalization == "sum":
            out[t] = (sum_inside + sum_outside) / (inside.sum() + outside.sum() + EPS)
        else:
            assert normalization == "none", normalization
            out[t] = sum_inside + sum_outside
    return out


def dense(weights, name, x):
    return x @ weights[name + ".kernel"] + weights[name + ".bias"]


def hidden_states(config, weights, x):
    """x [T, embed_dim] -> [T, hidden_size], after the final norm."""
    hidden, heads = config.get("hidden_size", 256), config["num_heads"]
    x = np.asarray(x, np.float64)
    if config["embed_dim"] != hidden:
        x = dense(weights, "input_projection", x)
    for i in range(1, config["num_layers"] + 1):
        block = f"{BLOCK_NAMES[config['model_type']]}_{i}_"
        normed = layer_norm(x, weights[block + "attn_norm.gamma"], weights[block + "attn_norm.beta"])
        q, k, v = np.split(dense(weights, block + "attn_qkv", normed), 3, axis=1)
        split = [np.split(part, heads, axis=1) for part in (q, k, v)]
        attended = np.concatenate([head_attention(config, *head) for head in zip(*split)], axis=1)
        x = x + dense(weights, block + "attn_out", attended)
        normed = layer_norm(x, weights[block + "ffn_norm.gamma"], weights[block + "ffn_norm.beta"])
        x = x + dense(weights, block + "ffn_down", gelu(dense(weights, block + "ffn_up", normed)))
    return layer_norm(x, weights["final_norm.gamma"], weights["final_norm.beta"])


def logits(config, weights, tokens):
    """tokens [T] -> [T, vocab_size]."""
    embedded = weights["token_embedding.kernel"][np.asarray(tokens)]
    return hidden_states(config, weights, embedded) @ weights["lm_head.kernel"]


def random_weights(config, seed):
    """What Edifice's export holds for a configuration, random, as float64 values that f32 holds exactly.

    q and k get a positive bias where nothing else makes the sums of scores positive: with signs that mix, a divisor
    comes near 0 now and then, and no arithmetic of 24 bits gives the quotient to 5 digits.
    """
    random = np.random.default_rng(seed)
    embed, hidden = config["embed_dim"], config.get("hidden_size", 256)
    weights = {}

    def put_dense(name, rows, columns, bias=True):
        weights[name + ".kernel"] = random.normal(0, rows ** -0.5, (rows, columns))
        if bias:
            weights[name + ".bias"] = random.normal(0, 0.2, columns)

    def put_norm(name):
        weights[name + ".gamma"] = 1 + random.normal(0, 0.2, hidden)
        weights[name + ".beta"] = random.normal(0, 0.2, hidden)

    if embed != hidden:
        put_dense("input_projection", embed, hidden)
    for i in range(1, config["num_layers"] + 1):
        block = f"{BLOCK_NAMES[config['model_type']]}_{i}_"
        put_norm(block + "attn_norm")
        put_dense(block + "attn_qkv", hidden, 3 * hidden)
        if config["model_type"] == "lightning_attention" or config.get("feature_map", "elu") == "identity":
            weights[block + "attn_qkv.kernel"][:, :2 * hidden] *= 0.5
            weights[block + "attn_qkv.bias"][:2 * hidden] = 1 + random.uniform(0, 0.5, 2 * hidden)
        put_dense(block + "attn_out", hidden, hidden)
        put_norm(block + "ffn_norm")
        put_dense(block + "ffn_up", hidden, 4 * hidden)
        put_dense(block + "ffn_down", 4 * hidden, hidden)
    put_norm("final_norm")
    if config.get("vocab_size"):
        weights["token_embedding.kernel"] = random.normal(0, 1, (config["vocab_size"], embed))
        put_dense("lm_head", hidden, config["vocab_size"], bias=False)
    return {name: value.astype(np.float32).astype(np.float64) for name, value in weights.items()}


def write_safetensors(path, tensors, dtype=np.float32):
    """dtype: np.float32 or np.float16; integers stay int64."""
    header, payload = {}, b""
    for name in sorted(tensors):
        values = np.asarray(tensors[name])
        values = values.astype(np.int64 if values.dtype.kind == "i" else dtype)
        data = values.tobytes()
        kind = {"int64": "I64", "float32": "F32", "float16": "F16"}[values.dtype.name]
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [len(payload), len(payload) + len(data)]}
        payload += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + payload)
