# The CUDA backend; added to target fla_kernels by kernels/CMakeLists.txt.
target_sources(fla_kernels PRIVATE
  cuda/convolution.cu
  cuda/convolution_tile.cu
  cuda/cublas_lt_library.cc
  cuda/decode.cu
  cuda/decode_linear.cu
  cuda/decode_prepare.cu
  cuda/device.cu
  cuda/elementwise.cu
  cuda/feature_maps.cu
  cuda/folded_residual.cu
  cuda/gather.cu
  cuda/heads.cu
  cuda/linear.cu
  cuda/linear_plans.cc
  cuda/low_rank_linear.cu
  cuda/norm.cu
  cuda/normalizer.cu
  cuda/sampling.cu
  cuda/split_input.cu
  cuda/step_collector.cc
  cuda/step_generic.cu
  cuda/step_program_compile.cc
  cuda/widen_weight.cu)
# CMake 3.25 does not know nvcc's flag for the C++20 that the project asks for. (The option in the
# root CMakeLists.txt sets it; this says that nothing is missing.)
if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "")
endif()
# cudart goes into the binary; the driver and cuBLASLt are taken from the machine, when they are needed.
set_target_properties(fla_kernels PROPERTIES CUDA_RUNTIME_LIBRARY Static)
target_link_libraries(fla_kernels PUBLIC CUDA::cudart_static PRIVATE ${CMAKE_DL_LIBS})
set_source_files_properties(cuda/cublas_lt_library.cc PROPERTIES
  COMPILE_DEFINITIONS FLA_CUDA_LIBRARIES="${CUDAToolkit_LIBRARY_DIR}")
include(${CMAKE_CURRENT_LIST_DIR}/sources_recurrence.cmake OPTIONAL)
