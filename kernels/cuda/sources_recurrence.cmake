# The recurrence on CUDA; included by sources.cmake. Cells of a kernel family share a file, families
# do not, so that two cores compile them side by side.
target_sources(fla_kernels PRIVATE
  cuda/chunk_attention.cu
  cuda/chunk_attention_finish.cu
  cuda/chunk_attention_scan.cu
  cuda/prefill_plan.cc
  cuda/recurrence.cu
  cuda/recurrence_launch.cu
  cuda/step_f32.cu
  cuda/step_bf16.cu
  cuda/step_bf16_state.cu
  cuda/step_load.cu
  cuda/step_load_bf16_state.cu
  cuda/tile_map.cc
  cuda/chunk_prepare.cu
  cuda/chunk_scan_additive.cu
  cuda/chunk_scan_delta.cu
  cuda/chunk_scan_local.cu
  cuda/segment_combine.cu
  cuda/segment_decays.cu
  cuda/segment_plan.cc)

# Hopper's own instructions, whatever the chips that the rest is built for.
add_library(fla_kernels_hopper OBJECT
  cuda/between_recurrences.cu
  cuda/channel_prefill.cu
  cuda/cluster_linear.cu
  cuda/prefill_linear.cu
  cuda/step_program.cu
  cuda/step_replay.cu
  cuda/step_tile.cu
  cuda/stream_linear.cu
  cuda/wide_prepare.cu
  cuda/wide_scan_additive.cu
  cuda/wide_scan_delta.cu
  cuda/wide_scan_local.cu)
set_target_properties(fla_kernels_hopper PROPERTIES
  CUDA_ARCHITECTURES 90a CUDA_RUNTIME_LIBRARY Static)
target_link_libraries(fla_kernels_hopper PRIVATE fla_options CUDA::cudart_static)
target_sources(fla_kernels PRIVATE $<TARGET_OBJECTS:fla_kernels_hopper>)
