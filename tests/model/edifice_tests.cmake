fla_test(edifice_test SOURCES edifice_test.cc LIBRARIES fla_model nlohmann_json::nlohmann_json)

add_executable(logits_tool logits_tool.cc)
target_link_libraries(logits_tool PRIVATE fla_model)

# Edifice's models against the float64 reference. The whole grid: --cases 360.
add_test(NAME edifice_parity
  COMMAND ${FLA_TEST_PYTHON} ${CMAKE_CURRENT_LIST_DIR}/edifice_parity.py
          --tool $<TARGET_FILE:logits_tool> --cases 60)
set_tests_properties(edifice_parity PROPERTIES TIMEOUT 1800)
