# Included by bench/CMakeLists.txt where the build has CUDA, after recurrence.cmake.
add_executable(ops_bench ${CMAKE_CURRENT_LIST_DIR}/ops_bench.cc)
target_link_libraries(ops_bench PRIVATE fla_kernels CUDA::cublasLt)

add_executable(sequence_ops_check ${CMAKE_CURRENT_LIST_DIR}/sequence_ops_check.cu)
set_target_properties(sequence_ops_check PROPERTIES CUDA_RUNTIME_LIBRARY Static)
target_link_libraries(sequence_ops_check PRIVATE fla_kernels fla_options CUDA::cudart_static)

# The same check of the same kernels where there is no GPU.
set(emulated_root ${CMAKE_CURRENT_BINARY_DIR}/sequence_ops_emulated)
set(emulated_sources
  kernels/cuda/convolution.cu
  kernels/cuda/convolution_tile.cu
  kernels/cuda/heads.cu
  kernels/cuda/norm.cu
  bench/cuda/sequence_ops_check.cu)
set(emulated_headers
  kernels/cuda/convolution_tile.cuh
  kernels/cuda/elements.cuh
  kernels/cuda/head_norm.cuh
  kernels/cuda/heads.cuh
  bench/cuda/recurrence_inputs.h)
set(emulated_stand_ins
  ${emulator}/chained.cuh
  ${emulator}/context.h
  ${emulator}/special_functions.cuh)
list(TRANSFORM emulated_sources PREPEND ${emulated_root}/ OUTPUT_VARIABLE emulated_files)
list(TRANSFORM emulated_files APPEND .cc)
list(TRANSFORM emulated_sources PREPEND ${PROJECT_SOURCE_DIR}/ OUTPUT_VARIABLE emulated_from)
list(TRANSFORM emulated_headers PREPEND ${PROJECT_SOURCE_DIR}/ OUTPUT_VARIABLE emulated_headers_from)
add_custom_command(
  OUTPUT ${emulated_files}
  COMMAND Python3::Interpreter ${emulator}/convert.py ${PROJECT_SOURCE_DIR} ${emulated_root}
          ${emulated_sources} ${emulated_headers}
  COMMAND ${CMAKE_COMMAND} -E copy ${emulated_stand_ins} ${emulated_root}/kernels/cuda
  DEPENDS ${emulated_from} ${emulated_headers_from} ${emulator}/convert.py ${emulated_stand_ins})
add_executable(sequence_ops_check_emulated ${emulated_files} ${emulator}/emulator.cc
  ${emulator}/stream.cc)
target_include_directories(sequence_ops_check_emulated BEFORE PRIVATE ${emulated_root})
target_include_directories(sequence_ops_check_emulated PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
# nvcc lets kernels read halves as pairs, as elements.cuh does.
target_compile_options(sequence_ops_check_emulated PRIVATE -w -fno-strict-aliasing)
target_link_libraries(sequence_ops_check_emulated PRIVATE fla_options)
if(BUILD_TESTING OR FLA_TESTS)
  add_test(NAME sequence_ops_check_emulated COMMAND sequence_ops_check_emulated 20 1)
endif()
