# Included by bench/CMakeLists.txt where the build has CUDA.
# CMake 3.25 does not know nvcc's flag for C++20; kernels/cuda/sources.cmake says more.
if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "")
endif()
foreach(name recurrence_check recurrence_bench)
  add_executable(${name} ${CMAKE_CURRENT_LIST_DIR}/${name}.cu)
  set_target_properties(${name} PROPERTIES CUDA_RUNTIME_LIBRARY Static)
  target_link_libraries(${name} PRIVATE fla_kernels fla_options CUDA::cudart_static)
endforeach()
