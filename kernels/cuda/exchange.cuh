// Vectors that blocks of one kernel hand each other while it runs.
//
// A word holds 32 bits of the vector and the number of the op that wrote them. Both are written by
// one store and read by one load, so a reader that finds the number has the value: no fence, no
// barrier over all blocks, and no second trip to the cache that they share. Half of the bytes are
// numbers; the vectors of a step are small.
//
// The emulator of bench/cuda replaces this file.
#pragma once

#include <cstdint>

namespace fla::cuda {

__device__ __forceinline__ void PutWord(uint64_t* word, uint32_t bits, uint32_t number) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(word),
               "l"(static_cast<uint64_t>(number) << 32 | bits)
               : "memory");
}

__device__ __forceinline__ uint32_t AwaitWord(const uint64_t* word, uint32_t number) {
  uint64_t value;
  do {
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
  } while (static_cast<uint32_t>(value >> 32) != number);
  return static_cast<uint32_t>(value);
}

// values[i] = the two words at words + i * step, for i < count: all on their way at once. Pairs lie
// on 16 bytes.
template <int kCount>
__device__ __forceinline__ void AwaitPairs(const uint64_t* words, int step, int count,
                                           uint32_t number, uint2 (&values)[kCount]) {
  uint32_t missing = (1u << count) - 1;
  do {
    uint64_t low[kCount], high[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (missing >> i & 1) {
        asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                     : "=l"(low[i]), "=l"(high[i])
                     : "l"(words + i * step)
                     : "memory");
      }
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if ((missing >> i & 1) && static_cast<uint32_t>(low[i] >> 32) == number &&
          static_cast<uint32_t>(high[i] >> 32) == number) {
        values[i] = make_uint2(static_cast<uint32_t>(low[i]), static_cast<uint32_t>(high[i]));
        missing &= ~(1u << i);
      }
    }
  } while (missing != 0);
}

}  // namespace fla::cuda
