find_package(absl REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED)
find_package(spdlog CONFIG REQUIRED)
find_package(Threads REQUIRED)

# Continuous batching: everything between a validated request and the model.
add_library(fla_engine STATIC
  ${CMAKE_CURRENT_LIST_DIR}/continuous_batch.cc
  ${CMAKE_CURRENT_LIST_DIR}/engine.cc
  ${CMAKE_CURRENT_LIST_DIR}/metrics.cc
  ${CMAKE_CURRENT_LIST_DIR}/model_metrics.cc
  ${CMAKE_CURRENT_LIST_DIR}/pooled_states.cc
  ${CMAKE_CURRENT_LIST_DIR}/request_queue.cc
  ${CMAKE_CURRENT_LIST_DIR}/retry_after.cc
  ${CMAKE_CURRENT_LIST_DIR}/scheduler.cc
  ${CMAKE_CURRENT_LIST_DIR}/sequence.cc
  ${CMAKE_CURRENT_LIST_DIR}/slot_count.cc
  ${CMAKE_CURRENT_LIST_DIR}/stop_matcher.cc)
target_link_libraries(fla_engine
  PUBLIC fla_model absl::status absl::strings absl::str_format Threads::Threads
  PRIVATE prometheus-cpp::core spdlog::spdlog)
