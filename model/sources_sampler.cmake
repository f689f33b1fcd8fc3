target_sources(fla_model PRIVATE
  ${CMAKE_CURRENT_LIST_DIR}/hidden_copies.cc
  ${CMAKE_CURRENT_LIST_DIR}/sampler.cc)
