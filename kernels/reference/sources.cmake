# added to target fla_kernels by kernels/CMakeLists.txt
target_sources(fla_kernels PRIVATE
  ${CMAKE_CURRENT_LIST_DIR}/chunk_attention.cc
  ${CMAKE_CURRENT_LIST_DIR}/chunk_attention.h
  ${CMAKE_CURRENT_LIST_DIR}/recurrence.cc
  ${CMAKE_CURRENT_LIST_DIR}/recurrence.h)
