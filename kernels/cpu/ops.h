// The CPU's implementations of kernels/ops.h and kernels/sampling.h, which say what each computes.
//
// Rows are shared among threads; no result depends on the number of threads, nor a row's
// result on the other rows of the call.
#pragma once

#include "kernels/ops.h"
#include "kernels/sampling.h"

namespace fla::cpu {

void EmbeddingLookup(Stream& stream, const int* tokens, Matrix table, Matrix out,
                     const int* sampled, DeviceTime* began);
void WriteInts(Stream& stream, std::span<const int> values, int* target);
void ZeroRows(Stream& stream, const ByteRows* regions, int count, int64_t row);
void GatherRows(Stream& stream, Matrix x, const int* rows, Matrix out);
void RmsNorm(Stream& stream, Matrix x, const float* weight, float eps, Matrix out);
void AddRmsNorm(Stream& stream, Matrix residual, Matrix delta, const float* weight, float eps,
                Matrix out);
void LayerNorm(Stream& stream, const LayerNormArgs& args);
void Add(Stream& stream, Matrix residual, Matrix delta);
void Linear(Stream& stream, Matrix x, Matrix weight, const float* bias, Matrix out);
void SwiGlu(Stream& stream, Matrix gate_up, Matrix out);
void ShortConvolution(Stream& stream, const ShortConvolutionArgs& args);
void ActivateHeads(Stream& stream, const ActivateHeadsArgs& args);
void Multiply(Stream& stream, Matrix a, Matrix b, Matrix out);
void HedgehogFeatureMap(Stream& stream, Matrix x, int head_dim, Matrix out);
void DpfpFeatureMap(Stream& stream, Matrix x, int head_dim, int nu, Matrix out);
void Rotary(Stream& stream, Matrix x, int head_dim, float base, const int* positions);
void LogDecay(Stream& stream, const LogDecayArgs& args);
void Beta(Stream& stream, Matrix x, float scale, float* out);
void OutputNorm(Stream& stream, const OutputNormArgs& args);
void Normalizer(Stream& stream, const NormalizerArgs& args);
void Sample(Stream& stream, const SampleArgs& args);

}  // namespace fla::cpu
