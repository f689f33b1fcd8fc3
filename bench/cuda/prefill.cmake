# Included by bench/CMakeLists.txt where the build has CUDA: the prefill kernels as a library, for
# compare_prefill.py.
add_library(fla_prefill SHARED ${CMAKE_CURRENT_LIST_DIR}/prefill_library.cc)
target_link_libraries(fla_prefill PRIVATE fla_kernels fla_options CUDA::cudart_static)
# torch has a CUDA runtime of its own in the same process: neither takes the other's symbols. What
# only the CPU's kernels need is left out.
target_link_options(fla_prefill PRIVATE
  LINKER:--exclude-libs,ALL LINKER:-Bsymbolic LINKER:--as-needed)
