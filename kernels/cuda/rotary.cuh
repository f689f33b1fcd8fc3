// By what angle a rotary embedding turns a pair of channels of a head.
#pragma once

namespace fla::cuda {

struct Rotation {
  float sine, cosine;

  __device__ __forceinline__ void Turn(float& low, float& high) const {
    const float turned = low * cosine - high * sine;
    high = low * sine + high * cosine;
    low = turned;
  }
};

// Of channels `pair` and `pair` + size / 2 of a head of `size`.
__device__ __forceinline__ Rotation RotationOf(int pair, int size, float base, int position) {
  const float exponent = static_cast<float>(2 * pair) / static_cast<float>(size);
  Rotation rotation;
  sincosf(static_cast<float>(position) * (1.0f / powf(base, exponent)), &rotation.sine,
          &rotation.cosine);
  return rotation;
}

}  // namespace fla::cuda
