# Tests of the GPU's ops against the CPU's, which skip without a GPU, and of the plans for it.
if(FLA_CUDA)
  fla_test(segment_plan_test
    SOURCES segment_plan_test.cc
    LIBRARIES fla_kernels)
  fla_test(cuda_decode_test
    SOURCES cuda_decode_test.cc
    LIBRARIES fla_kernels)
  fla_test(cuda_fp8_test
    SOURCES cuda_fp8_test.cc
    LIBRARIES fla_kernels)
  fla_test(cuda_ops_test
    SOURCES cuda_ops_test.cc
    LIBRARIES fla_kernels)
  fla_test(cuda_prefill_test
    SOURCES cuda_prefill_test.cc
    LIBRARIES fla_kernels)
  fla_test(folded_residual_test
    SOURCES folded_residual_test.cc
    LIBRARIES fla_kernels)
  fla_test(between_recurrences_test
    SOURCES between_recurrences_test.cc
    LIBRARIES fla_kernels)
  fla_test(cuda_sampling_test
    SOURCES cuda_sampling_test.cc
    LIBRARIES fla_kernels)
  # These two need none.
  fla_test(prefill_plan_test
    SOURCES prefill_plan_test.cc
    LIBRARIES fla_kernels)
  fla_test(step_plan_test
    SOURCES step_plan_test.cc
    LIBRARIES fla_kernels)
endif()
