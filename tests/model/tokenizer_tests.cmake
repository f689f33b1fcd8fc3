fla_test(tokenizer_test
  SOURCES unicode_test.cc tokenizer_test.cc
  LIBRARIES fla_model nlohmann_json::nlohmann_json)

add_executable(tokenizer_tool tokenizer_tool.cc)
target_link_libraries(tokenizer_tool PRIVATE fla_model)

# Against Hugging Face's library: the demonstration model, and the tokenizers of real models where
# there are any.
set(FLA_TOKENIZERS "$ENV{FLA_TOKENIZERS}" CACHE PATH
  "A folder with one folder a tokenizer for the parity test; empty: only the demonstration model's")
set(FLA_TOKENIZER_TEXTS 20000 CACHE STRING "Texts a tokenizer in the parity test")
find_package(Python3 COMPONENTS Interpreter)
if(Python3_FOUND)
  set(folders "${PROJECT_SOURCE_DIR}/demo/model")
  if(FLA_TOKENIZERS)
    file(GLOB found LIST_DIRECTORIES true "${FLA_TOKENIZERS}/*")
    foreach(entry IN LISTS found)
      if(IS_DIRECTORY "${entry}")
        list(APPEND folders "${entry}")
      endif()
    endforeach()
  endif()
  add_test(NAME tokenizer_parity
    COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/tokenizer_parity.py
            --tool $<TARGET_FILE:tokenizer_tool> --count ${FLA_TOKENIZER_TEXTS} ${folders})
  set_tests_properties(tokenizer_parity PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 1800)
endif()
