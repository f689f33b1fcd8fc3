// Any config.json and generation_config.json either give a model's sizes, all of them usable, or
// are refused with an exception. A zero byte parts the two.
#include <stdexcept>

#include "model/config.h"
#include "model/state_pool.h"
#include "tests/fuzz/input_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using fla::fuzz::Require;
  static const fla::fuzz::InputFolder kFolder;
  const std::string_view bytes = fla::fuzz::BytesOf(data, size);
  const size_t middle = bytes.find('\0');
  kFolder.Clear();
  kFolder.Write("config.json", bytes.substr(0, middle));
  if (middle != std::string_view::npos) {
    kFolder.Write("generation_config.json", bytes.substr(middle + 1));
  }
  const fla::ConfigFindings findings = fla::ExamineModelConfig(kFolder.path());
  fla::ModelConfig config;
  try {
    config = fla::LoadModelConfig(kFolder.path());
  } catch (const std::runtime_error& error) {
    Require(!findings.problems.empty(), "a problem that is not found");
    return 0;
  }
  Require(findings.problems.empty(), "a problem that is none");
  Require(config.vocab_size > 0 || config.embed_dim > 0, "neither tokens nor vectors");
  Require(config.hidden_size > 0 && config.num_layers > 0, "sizes");
  const fla::MixerSpec& mixer = config.mixer;
  Require(mixer.heads > 0 && mixer.head_k_dim > 0 && mixer.head_v_dim > 0, "heads");
  for (const int heads : {mixer.q_heads, mixer.k_heads, mixer.v_heads}) {
    Require(heads > 0 && mixer.heads % heads == 0, "groups of heads");
  }
  for (const int token : config.eos_token_ids) {
    Require(token >= 0 && token < config.vocab_size, "an eos token out of the vocabulary");
  }
  Require(fla::StateBytesPerSlot(config, {}) > 0, "the state's size");
  return 0;
}
