// Any model.safetensors.index.json beside two good shards either opens, with no tensor but theirs,
// or is refused with an exception.
#include <stdexcept>

#include "model/safetensors.h"
#include "tests/fuzz/input_folder.h"
#include "tests/testing/checkpoint_writer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using fla::fuzz::Require;
  using fla::testing::SafetensorsOf;
  using Tensors = std::map<std::string, fla::testing::FloatTensor>;
  static const fla::fuzz::InputFolder kFolder;
  static const bool kWritten = [] {
    kFolder.Write("a.safetensors", SafetensorsOf(Tensors{{"a", {{2}, {1, 2}}}}));
    kFolder.Write("b.safetensors", SafetensorsOf(Tensors{{"b", {{}, {3}}}, {"c", {{}, {4}}}}));
    return true;
  }();
  Require(kWritten, "the shards");
  kFolder.Write("model.safetensors.index.json", fla::fuzz::BytesOf(data, size));
  try {
    const fla::Checkpoint checkpoint = fla::Checkpoint::Open(kFolder.path());
    for (const auto& [name, tensor] : checkpoint.tensors()) {
      Require(name == "a" || name == "b" || name == "c", "a tensor of nowhere");
      std::string copy(static_cast<size_t>(tensor.bytes()), '\0');
      tensor.source->Read(tensor.offset, copy);
    }
  } catch (const std::runtime_error&) {
  }
  return 0;
}
