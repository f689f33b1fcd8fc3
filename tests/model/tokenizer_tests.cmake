fla_test(tokenizer_test
  SOURCES unicode_test.cc tokenizer_test.cc
  LIBRARIES fla_model nlohmann_json::nlohmann_json)

add_executable(tokenizer_tool tokenizer_tool.cc)
target_link_libraries(tokenizer_tool PRIVATE fla_model)

# Against Hugging Face's library: the demonstration model's tokenizer, and those of real models in
# the folder that the environment variable FLA_TOKENIZERS names when the test runs.
set(FLA_TOKENIZER_TEXTS 2000 CACHE STRING "Texts a tokenizer in the parity test")
add_test(NAME tokenizer_parity
  COMMAND ${FLA_TEST_PYTHON} ${CMAKE_CURRENT_LIST_DIR}/tokenizer_parity.py
          --tool $<TARGET_FILE:tokenizer_tool> --count ${FLA_TOKENIZER_TEXTS}
          ${PROJECT_SOURCE_DIR}/demo/model)
set_tests_properties(tokenizer_parity PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 1800)
