# The recurrence on CUDA; included by sources.cmake. Cells of a kernel family share a file, families
# do not, so that two cores compile them side by side.
target_sources(fla_kernels PRIVATE
  cuda/recurrence.cu
  cuda/recurrence_launch.cu
  cuda/step_f32.cu
  cuda/step_bf16.cu
  cuda/step_bf16_state.cu
  cuda/chunk_prepare.cu
  cuda/chunk_scan_additive.cu
  cuda/chunk_scan_delta.cu)
