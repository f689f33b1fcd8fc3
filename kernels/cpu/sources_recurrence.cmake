# The recurrence of the CPU backend; included by sources.cmake.
target_sources(fla_kernels PRIVATE
  ${CMAKE_CURRENT_LIST_DIR}/chunk_attention.cc
  ${CMAKE_CURRENT_LIST_DIR}/chunk_attention.h
  ${CMAKE_CURRENT_LIST_DIR}/chunk_attention_heads.cc
  ${CMAKE_CURRENT_LIST_DIR}/chunk_attention_heads.h
  ${CMAKE_CURRENT_LIST_DIR}/denormals.h
  ${CMAKE_CURRENT_LIST_DIR}/recurrence.cc
  ${CMAKE_CURRENT_LIST_DIR}/recurrence.h
  ${CMAKE_CURRENT_LIST_DIR}/recurrence_chunk-inl.h
  ${CMAKE_CURRENT_LIST_DIR}/recurrence_heads.h
  ${CMAKE_CURRENT_LIST_DIR}/recurrence_matmul-inl.h
  ${CMAKE_CURRENT_LIST_DIR}/recurrence_prefill.cc
  ${CMAKE_CURRENT_LIST_DIR}/recurrence_rows-inl.h
  ${CMAKE_CURRENT_LIST_DIR}/recurrence_step.cc)
