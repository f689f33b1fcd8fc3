# Included by bench/CMakeLists.txt where the build has CUDA, after recurrence.cmake.
add_executable(decode_check ${CMAKE_CURRENT_LIST_DIR}/decode_check.cu)
set_target_properties(decode_check PROPERTIES CUDA_RUNTIME_LIBRARY Static)
target_link_libraries(decode_check PRIVATE fla_kernels fla_options CUDA::cudart_static)

# The same check of the same kernels where there is no GPU.
set(emulated_root ${CMAKE_CURRENT_BINARY_DIR}/decode_emulated)
set(emulated_sources
  kernels/cuda/decode_linear.cu
  kernels/cuda/decode_prepare.cu
  bench/cuda/decode_check.cu)
set(emulated_headers
  kernels/cuda/elements.cuh
  kernels/cuda/gates.cuh
  kernels/cuda/head_norm.cuh
  bench/cuda/recurrence_inputs.h)
list(TRANSFORM emulated_sources PREPEND ${emulated_root}/ OUTPUT_VARIABLE emulated_files)
list(TRANSFORM emulated_files APPEND .cc)
list(TRANSFORM emulated_sources PREPEND ${PROJECT_SOURCE_DIR}/ OUTPUT_VARIABLE emulated_from)
list(TRANSFORM emulated_headers PREPEND ${PROJECT_SOURCE_DIR}/ OUTPUT_VARIABLE emulated_headers_from)
add_custom_command(
  OUTPUT ${emulated_files}
  COMMAND Python3::Interpreter ${emulator}/convert.py ${PROJECT_SOURCE_DIR} ${emulated_root}
          ${emulated_sources} ${emulated_headers}
  COMMAND ${CMAKE_COMMAND} -E copy ${emulator}/chained.cuh ${emulator}/chunk_tile.cuh
          ${emulator}/special_functions.cuh ${emulated_root}/kernels/cuda
  DEPENDS ${emulated_from} ${emulated_headers_from} ${emulator}/convert.py
          ${emulator}/chained.cuh ${emulator}/chunk_tile.cuh ${emulator}/special_functions.cuh)
add_executable(decode_check_emulated ${emulated_files} ${emulator}/emulator.cc)
target_include_directories(decode_check_emulated BEFORE PRIVATE ${emulated_root})
target_include_directories(decode_check_emulated PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
target_compile_options(decode_check_emulated PRIVATE -w)
target_link_libraries(decode_check_emulated PRIVATE fla_options)
if(BUILD_TESTING OR FLA_TESTS)
  add_test(NAME decode_check_emulated COMMAND decode_check_emulated 60 1)
endif()

add_executable(step_program_check ${CMAKE_CURRENT_LIST_DIR}/step_program_check.cu)
set_target_properties(step_program_check PROPERTIES CUDA_RUNTIME_LIBRARY Static)
target_link_libraries(step_program_check PRIVATE fla_kernels fla_options CUDA::cudart_static)
if(BUILD_TESTING OR FLA_TESTS)
  add_test(NAME step_program_check COMMAND step_program_check 60 1 small)
  set_tests_properties(step_program_check PROPERTIES SKIP_RETURN_CODE 77)
endif()
