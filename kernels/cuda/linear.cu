// Linear through cuBLASLt, but for few rows by eight-bit weights, or by few inputs.
#include <algorithm>
#include <string>

#include "kernels/cuda/context.h"
#include "kernels/cuda/decode.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/linear_plans.h"
#include "kernels/cuda/low_rank_linear.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/widen_weight.h"

namespace fla::cuda {
namespace {

// grid (ceil(count / block)), block (256)
__global__ void RoundBiasKernel(const float* bias, __nv_bfloat16* rounded, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) rounded[i] = __float2bfloat16_rn(bias[i]);
}

// The largest power of two up to 16 that divides both the address and the distance of rows.
int8_t Alignment(const Matrix& matrix) {
  const auto address = reinterpret_cast<uintptr_t>(matrix.data);
  const auto row_bytes = static_cast<uintptr_t>(matrix.stride) * SizeOf(matrix.dtype);
  const uintptr_t bits = address | row_bytes | 16;
  return static_cast<int8_t>(bits & (~bits + 1));
}

LinearShape ShapeOf(const Matrix& x, const Matrix& weight, const Matrix& out,
                    LinearShape::Bias bias) {
  return {x.dtype, out.dtype, bias,        Alignment(x), Alignment(weight), Alignment(out),
          x.rows,  x.cols,    weight.rows, x.stride,     weight.stride,     out.stride};
}

// cuBLASLt takes a bf16 bias for a bf16 result. (A bias out of a bf16 checkpoint loses nothing.)
const void* RoundBias(Stream& stream, const float* bias, int64_t count) {
  if (count > static_cast<int64_t>(Stream::CudaContext::kMaxBiasLength)) {
    throw DeviceError("Linear: a bias has " + std::to_string(count) + " entries, at most " +
                      std::to_string(Stream::CudaContext::kMaxBiasLength) + " are supported");
  }
  auto* rounded = stream.cuda()->bias.as<__nv_bfloat16>();
  RoundBiasKernel<<<static_cast<unsigned>((count + 255) / 256), 256, 0, MakeCurrent(stream)>>>(
      bias, rounded, static_cast<int>(count));
  CheckLaunch("Linear, RoundBiasKernel");
  return rounded;
}

void Multiply(Stream& stream, Matrix x, Matrix weight, const float* bias, Matrix out) {
  Stream::CudaContext& context = *stream.cuda();
  const cudaStream_t cuda_stream = MakeCurrent(stream);

  LinearShape::Bias bias_kind = LinearShape::Bias::kNone;
  const void* bias_data = bias;
  if (bias != nullptr && out.dtype == DType::kF32) bias_kind = LinearShape::Bias::kF32;
  if (bias != nullptr && out.dtype == DType::kBF16) {
    bias_kind = LinearShape::Bias::kBF16;
    bias_data = RoundBias(stream, bias, out.cols);
  }
  const LinearShape shape = ShapeOf(x, weight, out, bias_kind);
  LinearPlan& plan = context.linears->Find(context.cublas, context.workspace.size(), shape);
  if (!plan.supported) {
    throw DeviceError("Linear: cuBLASLt has no algorithm for x [" + std::to_string(x.rows) + ", " +
                      std::to_string(x.cols) + "] " + NameOf(x.dtype) + ", weight [" +
                      std::to_string(weight.rows) + ", " + std::to_string(weight.cols) + "], out " +
                      NameOf(out.dtype));
  }
  if (bias != nullptr) {
    Check(cublasLtMatmulDescSetAttribute(&plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                         &bias_data, sizeof(bias_data)),
          "cublasLtMatmulDescSetAttribute");
  }
  const float one = 1.0f, zero = 0.0f;
  const auto multiply = [&] {
    return cublasLtMatmul(context.cublas, &plan.operation, &one, weight.data, &plan.weight, x.data,
                          &plan.x, &zero, out.data, &plan.out, out.data, &plan.out, &plan.algorithm,
                          context.workspace.data(), context.workspace.size(), cuda_stream);
  };
  if (context.tuning && !plan.measured) {
    context.linears->Measure(context.cublas, context.workspace.size(), shape, plan, cuda_stream,
                             multiply);
  }
  Check(multiply(), "cublasLtMatmul");
}

// Few rows read the bytes; for many the weight is widened, a part of its rows at a time.
void MultiplyByFp8(Stream& stream, Matrix x, Matrix weight, const float* bias, Matrix out) {
  DecodeLinearArgs few;
  few.x = x, few.weight = weight, few.out = out;
  if (bias == nullptr && StreamLinear(stream, few)) return;
  const int64_t fitting = kWidenedBytes / (2 * weight.cols) / kWidenedRows * kWidenedRows;
  for (int64_t row = 0; row < weight.rows; row += fitting) {
    const int64_t rows = std::min(fitting, weight.rows - row);
    Multiply(stream, x, WidenWeight(stream, weight.Rows(row, rows)),
             bias == nullptr ? nullptr : bias + row, out.Columns(row, rows));
  }
}

}  // namespace

void Linear(Stream& stream, Matrix x, Matrix weight, const float* bias, Matrix out) {
  if (x.rows == 0 || weight.rows == 0) return;
  if (weight.dtype == DType::kF8E4M3) return MultiplyByFp8(stream, x, weight, bias, out);
  if (LowRankLinear(stream, x, weight, bias, out)) return;
  Multiply(stream, x, weight, bias, out);
}

}  // namespace fla::cuda
