find_package(CLI11 REQUIRED)
find_package(nlohmann_json REQUIRED)

add_executable(model_bench ${CMAKE_CURRENT_LIST_DIR}/model_bench.cc)
target_link_libraries(model_bench PRIVATE fla_model CLI11::CLI11)
target_link_options(model_bench PRIVATE
  LINKER:--wrap=_ZN3fla6LinearERNS_6StreamENS_6MatrixES2_PKfS2_)

add_executable(model_loss ${CMAKE_CURRENT_LIST_DIR}/model_loss.cc)
target_link_libraries(model_loss PRIVATE fla_model CLI11::CLI11 nlohmann_json::nlohmann_json)
