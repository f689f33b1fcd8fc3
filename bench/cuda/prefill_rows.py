"""The shapes that prefill kernels are compared on."""
import dataclasses
import itertools


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    op: str  # kda, gdn, delta, gla, simple_gla, retention, linear
    qk_heads: int
    heads: int
    key_dim: int
    value_dim: int
    lengths: tuple
    goal_ms: float = None
    packed: bool = False  # peers get cu_seqlens even where all lengths are equal

    @property
    def tokens(self):
        return sum(self.lengths)

    @property
    def cu_seqlens(self):
        return [0, *itertools.accumulate(self.lengths)]

    @property
    def batched(self):
        """Whether peers see it as [N, T, ...] rather than [1, all tokens, ...] with cu_seqlens."""
        return len(set(self.lengths)) == 1 and not self.packed


# 20 ragged lengths of 16384 tokens in all; six of 8192, and eight equal ones, from FlashKDA's benchmark.
RAGGED = (40, 1900, 300, 77, 2600, 512, 1024, 128, 3000, 900, 650, 211, 33, 1500, 460, 800, 700, 99, 1000, 450)
SIX = (1300, 547, 2048, 963, 271, 3063)
EIGHT = (1024,) * 8

# Names as recurrence_bench prints them, where it has the shape.
ROWS = [
    Row("KDA H96 1x8192", "kda", 96, 96, 128, 128, (8192,), 0.65),
    Row("KDA H64 1x8192", "kda", 64, 64, 128, 128, (8192,), 0.45),
    Row("KDA H64 20 ragged 16384", "kda", 64, 64, 128, 128, RAGGED, 0.90),
    Row("KDA H4 1x65536", "kda", 4, 4, 128, 128, (65536,), 0.50),
    Row("KDA H8 1x65536", "kda", 8, 8, 128, 128, (65536,), 0.80),
    Row("KDA H96 6 ragged 8192", "kda", 96, 96, 128, 128, SIX),
    Row("KDA H96 8x1024", "kda", 96, 96, 128, 128, EIGHT, packed=True),
    Row("KDA H64 6 ragged 8192", "kda", 64, 64, 128, 128, SIX),
    Row("KDA H64 8x1024", "kda", 64, 64, 128, 128, EIGHT, packed=True),
    Row("GDN 16/32 1x8192", "gdn", 16, 32, 128, 128, (8192,), 0.18),
    Row("GDN 16/64 1x8192", "gdn", 16, 64, 128, 128, (8192,), 0.28),
    Row("GDN 16/64 4x8192", "gdn", 16, 64, 128, 128, (8192,) * 4, 0.65),
    Row("DeltaNet H64 1x8192", "delta", 64, 64, 128, 128, (8192,), 0.40),
    Row("GLA H64 1x8192", "gla", 64, 64, 128, 128, (8192,), 0.45),
    Row("simple GLA H64 1x8192", "simple_gla", 64, 64, 128, 128, (8192,), 0.22),
    Row("RetNet H64 1x8192", "retention", 64, 64, 128, 128, (8192,), 0.22),
    Row("linear attention H64 1x8192", "linear", 64, 64, 128, 128, (8192,), 0.20),
    Row("GLA 8x2048 H4 256x512", "gla", 4, 4, 256, 512, (2048,) * 8, 0.25),
    Row("simple GLA 8x2048 H4 256x512", "simple_gla", 4, 4, 256, 512, (2048,) * 8, 0.15),
    Row("GDN 8x2048 H6 256x512", "gdn", 6, 6, 256, 512, (2048,) * 8, 0.35),
    Row("GDN H6 256x512 1x2048", "gdn", 6, 6, 256, 512, (2048,)),
    Row("GLA H4 256x512 1x2048", "gla", 4, 4, 256, 512, (2048,)),
    Row("GDN H16 128x128 1x16384", "gdn", 16, 16, 128, 128, (16384,)),
]
