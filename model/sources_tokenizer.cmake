find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET GLOBAL libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET GLOBAL libutf8proc)
# Not by its pkg-config file, which adds the trainer's library.
find_path(SENTENCEPIECE_INCLUDE_DIR sentencepiece_processor.h REQUIRED)
find_library(SENTENCEPIECE_LIBRARY sentencepiece REQUIRED)
add_library(sentencepiece UNKNOWN IMPORTED GLOBAL)
set_target_properties(sentencepiece PROPERTIES
  IMPORTED_LOCATION ${SENTENCEPIECE_LIBRARY}
  INTERFACE_INCLUDE_DIRECTORIES ${SENTENCEPIECE_INCLUDE_DIR})

target_sources(fla_model PRIVATE
  unicode.cc
  tokenizer.cc
  tokenizer/added_tokens.cc
  tokenizer/bpe.cc
  tokenizer/byte_level.cc
  tokenizer/byte_trie.cc
  tokenizer/decoder.cc
  tokenizer/json_components.cc
  tokenizer/json_fields.cc
  tokenizer/longest_match.cc
  tokenizer/normalizer.cc
  tokenizer/pre_tokenizer.cc
  tokenizer/regex.cc
  tokenizer/regex_dialect.cc
  tokenizer/rwkv.cc
  tokenizer/sentencepiece.cc
  tokenizer/sentencepiece_charsmap.cc
  tokenizer/sentencepiece_file.cc
  tokenizer/tokenizer_json.cc
  tokenizer/unicode_versions.cc
  tokenizer/unigram.cc
  tokenizer/vocabulary.cc)
target_link_libraries(fla_model PRIVATE PkgConfig::PCRE2 PkgConfig::UTF8PROC sentencepiece)
