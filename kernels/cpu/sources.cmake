# The CPU backend; added to target fla_kernels by kernels/CMakeLists.txt.
target_sources(fla_kernels PRIVATE
  cpu/elementwise.cc
  cpu/embedding.cc
  cpu/feature_maps.cc
  cpu/free_memory.cc
  cpu/gates.cc
  cpu/linear.cc
  cpu/linear_kernel.cc
  cpu/norm.cc
  cpu/normalizer.cc
  cpu/packed_linear.cc
  cpu/panel_product.cc
  cpu/parallel.cc
  cpu/row_kernels.cc
  cpu/sampling.cc
  cpu/short_convolution.cc)
include(${CMAKE_CURRENT_LIST_DIR}/sources_recurrence.cmake OPTIONAL)
