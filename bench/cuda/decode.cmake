# Included by bench/CMakeLists.txt where the build has CUDA.
fla_add_cuda_check(decode_check)
fla_add_cuda_check(step_program_check)

# The same check of the same kernels where there is no GPU.
fla_add_emulated(decode_emulated
  KERNELS
    kernels/cuda/decode_linear.cu
    kernels/cuda/decode_prepare.cu
  CHECKS decode_check
  HEADERS
    kernels/cuda/decode_input.cuh
    kernels/cuda/elements.cuh
    kernels/cuda/fp8.cuh
    kernels/cuda/gates.cuh
    kernels/cuda/head_norm.cuh
    kernels/cuda/warp_sum.cuh
    bench/cuda/recurrence_inputs.h
  STAND_INS chained.cuh chunk_tile.cuh special_functions.cuh
  SOURCES kernels/fp8.cc)
if(BUILD_TESTING OR FLA_TESTS)
  add_test(NAME decode_check_emulated COMMAND decode_check_emulated 60 1)
  add_test(NAME step_program_check COMMAND step_program_check 60 1 small)
  set_tests_properties(step_program_check PROPERTIES SKIP_RETURN_CODE 77)
endif()
