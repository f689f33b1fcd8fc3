// Any checkpoint either opens, with every tensor's bytes readable, or is refused with an exception.
// The first byte says whether the rest is model.safetensors, or an index (up to a zero byte) and
// the shard a.safetensors.
#include <stdexcept>
#include <string>

#include "model/safetensors.h"
#include "tests/fuzz/input_folder.h"

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
    const fla::Checkpoint checkpoint = fla::Checkpoint::Open(kFolder.path());
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
  } catch (const std::runtime_error&) {
  }
  return 0;
}
