# Included by bench/CMakeLists.txt where the build has CUDA.
add_executable(ops_bench ${CMAKE_CURRENT_LIST_DIR}/ops_bench.cc)
target_link_libraries(ops_bench PRIVATE fla_kernels CUDA::cublasLt)

fla_add_cuda_check(sequence_ops_check)

# The same check of the same kernels where there is no GPU.
fla_add_emulated(sequence_ops_emulated
  KERNELS
    kernels/cuda/convolution.cu
    kernels/cuda/convolution_tile.cu
    kernels/cuda/folded_residual.cu
    kernels/cuda/heads.cu
    kernels/cuda/norm.cu
  CHECKS sequence_ops_check
  HEADERS
    kernels/cuda/convolution_tile.cuh
    kernels/cuda/elements.cuh
    kernels/cuda/folded_residual.h
    kernels/cuda/head_norm.cuh
    kernels/cuda/heads.cuh
    kernels/cuda/warp_sum.cuh
    bench/cuda/recurrence_inputs.h
  STAND_INS chained.cuh context.h special_functions.cuh
  SOURCES bench/cuda/recurrence_emulator/stream.cc)
if(BUILD_TESTING OR FLA_TESTS)
  add_test(NAME sequence_ops_check_emulated COMMAND sequence_ops_check_emulated 20 1)
endif()
