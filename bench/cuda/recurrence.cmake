# Included by bench/CMakeLists.txt where the build has CUDA.
foreach(name recurrence_check recurrence_bench)
  add_executable(${name} ${CMAKE_CURRENT_LIST_DIR}/${name}.cu)
  target_link_libraries(${name} PRIVATE fla_kernels fla_options CUDA::cudart_static)
endforeach()
