find_package(prometheus-cpp CONFIG REQUIRED)

fla_test(engine_parts_test
  SOURCES
    metrics_test.cc
    request_queue_test.cc
    scheduler_simulation_test.cc
    scheduler_test.cc
    sequence_test.cc
    slot_count_test.cc
    stop_matcher_test.cc
  LIBRARIES fla_engine prometheus-cpp::core)

# fake_model.cc defines the members of Model, so that the real ones are not linked.
fla_test(engine_test
  SOURCES embedding_test.cc engine_test.cc fake_model.cc
  LIBRARIES fla_engine prometheus-cpp::core)

find_package(nlohmann_json REQUIRED)
fla_test(engine_golden_test
  SOURCES engine_golden_test.cc ${PROJECT_SOURCE_DIR}/tests/model/sampler_test.cc
  LIBRARIES fla_engine nlohmann_json::nlohmann_json)
