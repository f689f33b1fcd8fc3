// The projections of a batch of few rows, from the residual stream and back into it, with the norms
// around them, activations in bf16: in one kernel each where the backend has it, else by ops.
#pragma once

#include "kernels/ops.h"
#include "model/activation_arena.h"

namespace fla {

// Where a norm's input and weight come from.
struct NormedResidual {
  Matrix residual;                // [T, D] f32
  const float* weight = nullptr;  // [D]
  float eps = 0.0f;
};

// out = Linear(RmsNorm(residual), weight).
void ProjectNormed(Stream& stream, ActivationArena& arena, const NormedResidual& x, Matrix weight,
                   Matrix out);

// out = SwiGlu(Linear(RmsNorm(residual), gate_up)).
void ProjectSwiGlu(Stream& stream, ActivationArena& arena, const NormedResidual& x, Matrix gate_up,
                   Matrix out);

// residual += Linear(x, weight).
void AddProjection(Stream& stream, ActivationArena& arena, Matrix x, Matrix weight,
                   Matrix residual);

// residual += Linear(OutputNorm(norm), weight). norm.out is scratch and may be norm.x.
void AddHeadsProjection(Stream& stream, ActivationArena& arena, const OutputNormArgs& norm,
                        Matrix weight, Matrix residual);

}  // namespace fla
