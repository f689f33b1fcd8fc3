find_package(Protobuf REQUIRED)
find_package(gRPC CONFIG REQUIRED)

fla_test(services_test
  SOURCES generate_call_test.cc json_lines_test.cc options_test.cc translate_test.cc result_test.cc writer_thread_test.cc
  LIBRARIES fla_services)
