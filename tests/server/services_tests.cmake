find_package(Protobuf REQUIRED)
find_package(gRPC CONFIG REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(spdlog REQUIRED)

fla_test(services_test
  SOURCES api_keys_test.cc chat_prompt_test.cc engine_call_test.cc json_lines_test.cc metrics_endpoint_test.cc options_test.cc request_log_test.cc translate_embed_test.cc translate_test.cc result_test.cc writer_thread_test.cc
  LIBRARIES fla_services nlohmann_json::nlohmann_json spdlog::spdlog)
fla_test(model_registry_test
  SOURCES config_watcher_test.cc memory_plan_test.cc model_registry_test.cc model_version_test.cc
  LIBRARIES fla_services)
add_dependencies(services_test fake_nvml)
target_compile_definitions(services_test PRIVATE FLA_FAKE_NVML_LIBRARY="$<TARGET_FILE:fake_nvml>")
