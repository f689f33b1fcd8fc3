// Writes safetensors files for tests: valid ones, and broken ones from a header given as text.
#pragma once

#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace fla::testing {

// The bytes of a safetensors file.
inline std::string SafetensorsFile(const std::string& header, const std::string& payload) {
  const uint64_t size = header.size();
  std::string file(sizeof size, '\0');
  std::memcpy(file.data(), &size, sizeof size);
  return file + header + payload;
}

// A tensor as it stands in a file.
struct StoredBytes {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

inline std::string SafetensorsOfStored(const std::map<std::string, StoredBytes>& tensors) {
  nlohmann::json header;
  std::string payload;
  for (const auto& [name, tensor] : tensors) {
    const size_t begin = payload.size();
    payload += tensor.bytes;
    header[name] = {{"dtype", tensor.dtype},
                    {"shape", tensor.shape},
                    {"data_offsets", {begin, payload.size()}}};
  }
  return SafetensorsFile(header.dump(), payload);
}

struct FloatTensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

inline StoredBytes Stored(const FloatTensor& tensor) {
  return {"F32", tensor.shape,
          std::string(reinterpret_cast<const char*>(tensor.values.data()),
                      tensor.values.size() * sizeof(float))};
}

inline std::string SafetensorsOf(const std::map<std::string, FloatTensor>& tensors) {
  std::map<std::string, StoredBytes> stored;
  for (const auto& [name, tensor] : tensors) stored[name] = Stored(tensor);
  return SafetensorsOfStored(stored);
}

}  // namespace fla::testing
