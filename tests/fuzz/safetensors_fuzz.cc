// Any checkpoint either opens, with every tensor's bytes readable, or is refused with an exception.
// What opens is then adapted to a model and converted.
// The first byte says whether the rest is model.safetensors, or an index (up to a zero byte) and
// the shard a.safetensors.
#include <stdexcept>
#include <string>

#include "model/checkpoint_layout.h"
#include "model/tensor_conversion.h"
#include "tests/fuzz/input_folder.h"

namespace {

void Convert(const fla::Checkpoint& checkpoint) {
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    std::string stored(static_cast<size_t>(tensor.bytes()), '\0');
    tensor.source->Read(tensor.offset, stored);
    std::string held(static_cast<size_t>(tensor.elements) * sizeof(float), '\0');
    fla::ConvertElements(tensor, 0, tensor.elements, stored.data(), fla::DType::kF32, held.data());
    fla::ConvertElements(tensor, 0, tensor.elements, stored.data(), fla::DType::kBF16, held.data());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using fla::fuzz::Require;
  static const fla::fuzz::InputFolder kFolder;
  if (size == 0) return 0;
  const std::string_view bytes = fla::fuzz::BytesOf(data + 1, size - 1);
  kFolder.Clear();
  if (data[0] % 2 == 0) {
    kFolder.Write("model.safetensors", bytes);
  } else {
    const size_t middle = bytes.find('\0');
    kFolder.Write("model.safetensors.index.json", bytes.substr(0, middle));
    if (middle != std::string_view::npos) kFolder.Write("a.safetensors", bytes.substr(middle + 1));
  }
  try {
    fla::Checkpoint checkpoint = fla::Checkpoint::Open(kFolder.path());
    int64_t total = 0;
    for (const auto& [name, tensor] : checkpoint.tensors()) {
      int64_t elements = 1;
      for (const int64_t extent : tensor.shape) elements *= extent;
      Require(elements == tensor.elements && elements >= 0, "elements");
      total += tensor.bytes();
      std::string copy(static_cast<size_t>(tensor.bytes()), '\0');
      tensor.source->Read(tensor.offset, copy);
    }
    Require(total == checkpoint.bytes() && total <= static_cast<int64_t>(size), "bytes");
    fla::ModelConfig config;
    config.model_type = "delta_net";
    config.num_layers = config.intermediate_size = 1;
    config.quantization.block = {2, 3};
    config.norm_first = size % 2 == 0;
    fla::AdaptLayout(config, checkpoint);
    Convert(checkpoint);
  } catch (const std::runtime_error&) {
  }
  return 0;
}
