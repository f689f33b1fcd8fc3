// The counter-based random numbers of sampling: Philox4x32-10 (Salmon et al., "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011). constexpr, so that CPU and CUDA code run the same source.
#pragma once

#include <cstdint>

namespace fla {

struct PhiloxBlock {
  uint32_t words[4];
};

// Ten rounds of Philox4x32 with a 64-bit key over a 128-bit counter (its low half; the high half
// is 0).
constexpr PhiloxBlock Philox4x32(uint64_t key, uint64_t counter) {
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32);
  uint32_t c2 = 0, c3 = 0;
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = 0xD2511F53ull * c0;
    const uint64_t product1 = 0xCD9E8D57ull * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(product0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// The upper 23 bits of a word as a float strictly inside (0, 1): the middle of one of 2^23 bins.
constexpr float OpenUniform(uint32_t word) {
  return (static_cast<float>(word >> 9) + 0.5f) * (1.0f / 8388608.0f);
}

}  // namespace fla
