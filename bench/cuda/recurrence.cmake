# Included by bench/CMakeLists.txt where the build has CUDA.
# CMake 3.25 does not know nvcc's flag for C++20; kernels/cuda/sources.cmake says more.
if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "")
endif()
foreach(name chunk_attention_check recurrence_check recurrence_bench replay_check)
  fla_add_cuda_check(${name})
endforeach()

# The same checks of the same kernels where there is no GPU.
fla_add_emulated(recurrence_emulated
  KERNELS
    kernels/cuda/channel_prefill.cu
    kernels/cuda/chunk_attention_finish.cu
    kernels/cuda/chunk_attention_scan.cu
    kernels/cuda/chunk_prepare.cu
    kernels/cuda/chunk_scan_additive.cu
    kernels/cuda/chunk_scan_delta.cu
    kernels/cuda/chunk_scan_local.cu
    kernels/cuda/recurrence_launch.cu
    kernels/cuda/segment_combine.cu
    kernels/cuda/segment_decays.cu
    kernels/cuda/step_bf16.cu
    kernels/cuda/step_bf16_state.cu
    kernels/cuda/step_f32.cu
    kernels/cuda/step_load.cu
    kernels/cuda/step_load_bf16_state.cu
    kernels/cuda/step_replay.cu
    kernels/cuda/step_tile.cu
    kernels/cuda/wide_prepare.cu
    kernels/cuda/wide_scan_additive.cu
    kernels/cuda/wide_scan_delta.cu
    kernels/cuda/wide_scan_local.cu
  CHECKS chunk_attention_check recurrence_check replay_check
  HEADERS
    kernels/cuda/chunk_attention_elements.cuh
    kernels/cuda/chunk_channel.cuh
    kernels/cuda/chunk_loader.cuh
    kernels/cuda/chunk_scalar.cuh
    kernels/cuda/chunk_scan.cuh
    kernels/cuda/chunk_triangles.cuh
    kernels/cuda/chunk_window.cuh
    kernels/cuda/elements.cuh
    kernels/cuda/gates.cuh
    kernels/cuda/head_norm.cuh
    kernels/cuda/projected_channels.cuh
    kernels/cuda/projected_inputs.cuh
    kernels/cuda/ring_position.cuh
    kernels/cuda/scan_segment.cuh
    kernels/cuda/step.cuh
    kernels/cuda/step_load.cuh
    kernels/cuda/step_token.cuh
    kernels/cuda/warp_sum.cuh
    kernels/cuda/wide_block.cuh
    kernels/cuda/wide_loader.cuh
    kernels/cuda/wide_matrices.cuh
    kernels/cuda/wide_panel.cuh
    kernels/cuda/wide_record.cuh
    kernels/cuda/wide_scan.cuh
    kernels/cuda/wide_triangle.cuh
    bench/cuda/recurrence_inputs.h
  STAND_INS bulk_copy.cuh chained.cuh chunk_tile.cuh record_ring.cuh special_functions.cuh
    warpgroup.cuh
  SOURCES kernels/cuda/prefill_plan.cc kernels/cuda/segment_plan.cc kernels/state_replay.cc)
target_sources(chunk_attention_check_emulated PRIVATE
  ${PROJECT_SOURCE_DIR}/kernels/reference/chunk_attention.cc)
target_sources(replay_check_emulated PRIVATE
  ${PROJECT_SOURCE_DIR}/kernels/reference/recurrence.cc)
if(BUILD_TESTING OR FLA_TESTS)
  add_test(NAME recurrence_check_emulated COMMAND recurrence_check_emulated 32 1 small)
  add_test(NAME recurrence_step_check_emulated COMMAND recurrence_check_emulated 96 1 small step)
  add_test(NAME replay_check_emulated COMMAND replay_check_emulated 24 1)
  add_test(NAME chunk_attention_check_emulated COMMAND chunk_attention_check_emulated 10 1)
endif()
