# Included by bench/CMakeLists.txt where the build has CUDA.
add_executable(ops_bench ${CMAKE_CURRENT_LIST_DIR}/ops_bench.cc)
target_link_libraries(ops_bench PRIVATE fla_kernels CUDA::cublasLt)
