# Included by bench/CMakeLists.txt where the build has CUDA.
# CMake 3.25 does not know nvcc's flag for C++20; kernels/cuda/sources.cmake says more.
if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "")
endif()
foreach(name chunk_attention_check recurrence_check recurrence_bench)
  add_executable(${name} ${CMAKE_CURRENT_LIST_DIR}/${name}.cu)
  set_target_properties(${name} PROPERTIES CUDA_RUNTIME_LIBRARY Static)
  target_link_libraries(${name} PRIVATE fla_kernels fla_options CUDA::cudart_static)
endforeach()

# The same check of the same kernels where there is no GPU.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
find_package(Threads REQUIRED)
set(emulator ${CMAKE_CURRENT_LIST_DIR}/recurrence_emulator)
set(emulated_root ${CMAKE_CURRENT_BINARY_DIR}/recurrence_emulated)
set(emulated_sources
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
  kernels/cuda/step_tile.cu
  kernels/cuda/wide_prepare.cu
  kernels/cuda/wide_scan_additive.cu
  kernels/cuda/wide_scan_delta.cu
  kernels/cuda/wide_scan_local.cu)
set(emulated_checks bench/cuda/chunk_attention_check.cu bench/cuda/recurrence_check.cu)
set(emulated_headers
  kernels/cuda/chunk_attention_elements.cuh
  kernels/cuda/chunk_loader.cuh
  kernels/cuda/chunk_scan.cuh
  kernels/cuda/chunk_window.cuh
  kernels/cuda/elements.cuh
  kernels/cuda/gates.cuh
  kernels/cuda/projected_inputs.cuh
  kernels/cuda/scan_ring.cuh
  kernels/cuda/scan_segment.cuh
  kernels/cuda/step.cuh
  kernels/cuda/step_load.cuh
  kernels/cuda/step_token.cuh
  kernels/cuda/wide_block.cuh
  kernels/cuda/wide_loader.cuh
  kernels/cuda/wide_panel.cuh
  kernels/cuda/wide_record.cuh
  kernels/cuda/wide_scan.cuh
  kernels/cuda/wide_triangle.cuh
  bench/cuda/recurrence_inputs.h)
set(emulated_stand_ins
  ${emulator}/bulk_copy.cuh
  ${emulator}/chained.cuh
  ${emulator}/chunk_tile.cuh
  ${emulator}/special_functions.cuh
  ${emulator}/warpgroup.cuh)
list(TRANSFORM emulated_sources PREPEND ${emulated_root}/ OUTPUT_VARIABLE emulated_files)
list(TRANSFORM emulated_files APPEND .cc)
list(TRANSFORM emulated_checks PREPEND ${emulated_root}/ OUTPUT_VARIABLE emulated_check_files)
list(TRANSFORM emulated_check_files APPEND .cc)
set(all_emulated ${emulated_sources} ${emulated_checks})
list(TRANSFORM all_emulated PREPEND ${PROJECT_SOURCE_DIR}/ OUTPUT_VARIABLE emulated_from)
list(TRANSFORM emulated_headers PREPEND ${PROJECT_SOURCE_DIR}/ OUTPUT_VARIABLE emulated_headers_from)
add_custom_command(
  OUTPUT ${emulated_files} ${emulated_check_files}
  COMMAND Python3::Interpreter ${emulator}/convert.py ${PROJECT_SOURCE_DIR} ${emulated_root}
          ${all_emulated} ${emulated_headers}
  COMMAND ${CMAKE_COMMAND} -E copy ${emulated_stand_ins} ${emulated_root}/kernels/cuda
  DEPENDS ${emulated_from} ${emulated_headers_from} ${emulator}/convert.py ${emulated_stand_ins})
# The kernels once, a program for each check of them.
add_library(recurrence_emulated STATIC ${emulated_files} ${emulator}/emulator.cc
  ${PROJECT_SOURCE_DIR}/kernels/cuda/segment_plan.cc)
target_include_directories(recurrence_emulated BEFORE PUBLIC ${emulated_root})
target_include_directories(recurrence_emulated PUBLIC ${CUDAToolkit_INCLUDE_DIRS})
target_compile_options(recurrence_emulated PUBLIC -w)
target_link_libraries(recurrence_emulated PUBLIC fla_options Threads::Threads)
add_executable(recurrence_check_emulated
  ${emulated_root}/bench/cuda/recurrence_check.cu.cc)
add_executable(chunk_attention_check_emulated
  ${emulated_root}/bench/cuda/chunk_attention_check.cu.cc
  ${PROJECT_SOURCE_DIR}/kernels/reference/chunk_attention.cc)
foreach(name recurrence_check_emulated chunk_attention_check_emulated)
  target_link_libraries(${name} PRIVATE recurrence_emulated)
endforeach()
if(BUILD_TESTING OR FLA_TESTS)
  add_test(NAME recurrence_check_emulated COMMAND recurrence_check_emulated 32 1 small)
  add_test(NAME recurrence_step_check_emulated COMMAND recurrence_check_emulated 96 1 small step)
  add_test(NAME chunk_attention_check_emulated COMMAND chunk_attention_check_emulated 10 1)
endif()
