"""Our prefill kernels on the memory of torch tensors: the Python side of prefill_library.cc."""
import ctypes

import torch

DECAYS = {"linear": 0, "delta": 0, "retention": 1, "simple_gla": 2, "gdn": 2, "gla": 3, "kda": 3}
DELTA = ("delta", "gdn", "kda")


class FlaPrefill(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("q", "k", "v", "out", "log_decay", "beta", "state", "slots",
                                                     "cu_seqlens", "cu_seqlens_host")]
    _fields_ += [("tokens", ctypes.c_int64)]
    _fields_ += [(name, ctypes.c_int) for name in ("num_sequences", "decay", "update", "qk_heads", "heads",
                                                   "key_dim", "value_dim")]
    _fields_ += [("scale", ctypes.c_float)]


class FlaKdaInputs(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("q", "k", "gate", "beta", "a_log", "dt_bias")]
    _fields_ += [("lower_bound", ctypes.c_float), ("by_ops", ctypes.c_int)]


class PrefillLibrary:
    """The library at `path`, and the CUDA stream that it queues its work on."""

    def __init__(self, path):
        self._library = ctypes.CDLL(path)
        self._library.FlaOpenStream.restype = self._library.FlaQueuePrefill.restype = ctypes.c_char_p
        self._library.FlaCudaStream.restype = ctypes.c_void_p
        self._stream = ctypes.c_void_p()
        self._check(self._library.FlaOpenStream(ctypes.byref(self._stream)))
        self.stream = torch.cuda.ExternalStream(self._library.FlaCudaStream(self._stream))

    @staticmethod
    def _check(error):
        if error:
            raise RuntimeError(error.decode())

    def call(self, row, inputs, raw=False, by_ops=False):
        """A function of no arguments that runs `row` on `inputs` and returns out [T, H, V] and the final state
        [N, H, K, V]. From the second call on it starts from the state that the call before left. `raw`: from what a
        KDA layer's projections leave, `by_ops`: by ops in front of the prefill."""
        tokens, heads = row.tokens, row.heads
        device = dict(device="cuda")
        out = torch.full((tokens, heads, row.value_dim), torch.nan, dtype=torch.bfloat16, **device)
        state = torch.zeros(len(row.lengths), heads, row.key_dim, row.value_dim, **device)
        cu_host = torch.tensor(row.cu_seqlens, dtype=torch.int32)
        tensors = dict(v=inputs.v, out=out, state=state, cu_seqlens=cu_host.cuda(), cu_seqlens_host=cu_host,
                       slots=torch.arange(len(row.lengths), dtype=torch.int32, **device))
        if raw and by_ops:
            tensors |= {name: torch.empty_like(getattr(inputs, name)) for name in ("q", "k", "log_decay")}
            tensors["beta"] = torch.empty(tokens, heads, **device)
        elif not raw:
            tensors |= dict(q=inputs.q, k=inputs.k, log_decay=inputs.log_decay,
                            beta=inputs.beta.float() if inputs.beta is not None else None)
        prefill = FlaPrefill(**{name: x.data_ptr() for name, x in tensors.items() if x is not None}, tokens=tokens,
                             num_sequences=len(row.lengths), decay=DECAYS[row.op], update=row.op in DELTA,
                             qk_heads=row.qk_heads, heads=heads, key_dim=row.key_dim, value_dim=row.value_dim,
                             scale=row.key_dim ** -0.5)
        layer, kept = None, inputs.raw
        if raw:
            names = ("q", "k", "gate", "beta", "a_log", "dt_bias")
            layer = FlaKdaInputs(**{name: getattr(kept, name).data_ptr() for name in names},
                                 lower_bound=kept.lower_bound, by_ops=by_ops)

        def queue(tensors=tensors, kept=kept):  # which it keeps alive
            self._check(self._library.FlaQueuePrefill(self._stream, ctypes.byref(prefill),
                                                      ctypes.byref(layer) if layer is not None else None))
            return tensors["out"], tensors["state"]

        return queue
