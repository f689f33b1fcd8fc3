// Reads expected.safetensors files: f32 and i64 tensors that the tests compare with.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace fla::testing {

class ExpectedFile {
 public:
  explicit ExpectedFile(const std::filesystem::path& path) {
    std::ifstream stream(path, std::ios::binary);
    if (!stream) throw std::runtime_error("cannot open " + path.string());
    bytes_.assign(std::istreambuf_iterator<char>(stream), {});
    uint64_t header = 0;
    std::memcpy(&header, bytes_.data(), sizeof header);
    index_ = nlohmann::json::parse(bytes_.begin() + 8, bytes_.begin() + 8 + header);
    payload_ = 8 + header;
  }

  bool Has(const std::string& name) const { return index_.contains(name); }
  std::vector<int64_t> Shape(const std::string& name) const {
    return index_.at(name).at("shape").get<std::vector<int64_t>>();
  }
  std::vector<float> Floats(const std::string& name) const { return Read<float>(name, "F32"); }
  std::vector<int> Ints(const std::string& name) const {
    const std::vector<int64_t> wide = Read<int64_t>(name, "I64");
    return {wide.begin(), wide.end()};
  }

 private:
  template <typename T>
  std::vector<T> Read(const std::string& name, const std::string& dtype) const {
    const auto& entry = index_.at(name);
    if (entry.at("dtype") != dtype) throw std::runtime_error(name + ": wanted " + dtype);
    const auto offsets = entry.at("data_offsets").get<std::vector<size_t>>();
    std::vector<T> values((offsets[1] - offsets[0]) / sizeof(T));
    std::memcpy(values.data(), bytes_.data() + payload_ + offsets[0], values.size() * sizeof(T));
    return values;
  }

  std::vector<char> bytes_;
  nlohmann::json index_;
  size_t payload_ = 0;
};

}  // namespace fla::testing
