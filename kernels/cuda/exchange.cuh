// Vectors that blocks of one kernel hand each other while it runs.
//
// A word holds 32 bits of the vector and the number of the op that wrote them. Both are written by
// one store and read by one load, so a reader that finds the number has the value: no fence, no
// barrier over all blocks, and no second trip to the cache that they share. Half of the bytes are
// numbers; the vectors of a step are small.
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

// values[i] = the pair of words at address(i), for i < count, and, unless `other` is null,
// values[kCount] = the pair there: all on their way at once. Pairs lie on 16 bytes. What is not
// asked for is 0: registers that were set on some paths only would be taken throughout the kernel.
template <int kCount, typename Address>
__device__ __forceinline__ void AwaitPairs(Address address, int count, const uint64_t* other,
                                           uint32_t number, uint2 (&values)[kCount + 1]) {
  uint32_t missing = ((1u << count) - 1) | (other != nullptr ? 1u << kCount : 0u);
#pragma unroll
  for (uint2& value : values) value = make_uint2(0, 0);
  while (missing != 0) {
    uint64_t low[kCount + 1] = {}, high[kCount + 1] = {};
#pragma unroll
    for (int i = 0; i <= kCount; ++i) {
      if (missing >> i & 1) {
        asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                     : "+l"(low[i]), "+l"(high[i])
                     : "l"(i < kCount ? address(i) : other)
                     : "memory");
      }
    }
#pragma unroll
    for (int i = 0; i <= kCount; ++i) {
      if ((missing >> i & 1) && static_cast<uint32_t>(low[i] >> 32) == number &&
          static_cast<uint32_t>(high[i] >> 32) == number) {
        values[i] = make_uint2(static_cast<uint32_t>(low[i]), static_cast<uint32_t>(high[i]));
        missing &= ~(1u << i);
      }
    }
  }
}

// One pair.
__device__ __forceinline__ uint2 AwaitPair(const uint64_t* words, uint32_t number) {
  uint64_t low, high;
  do {
    asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                 : "=l"(low), "=l"(high)
                 : "l"(words)
                 : "memory");
  } while (static_cast<uint32_t>(low >> 32) != number ||
           static_cast<uint32_t>(high >> 32) != number);
  return make_uint2(static_cast<uint32_t>(low), static_cast<uint32_t>(high));
}
__device__ __forceinline__ void PutPair(uint64_t* words, uint2 bits, uint32_t number) {
  const uint64_t high = static_cast<uint64_t>(number) << 32;
  asm volatile("st.relaxed.gpu.global.v2.u64 [%0], {%1, %2};" ::"l"(words), "l"(high | bits.x),
               "l"(high | bits.y)
               : "memory");
}

}  // namespace fla::cuda
