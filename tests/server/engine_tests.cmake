fla_test(engine_tests
  SOURCES
    metrics_test.cc
    request_queue_test.cc
    scheduler_test.cc
    stop_matcher_test.cc
  LIBRARIES fla_engine prometheus-cpp::core)
