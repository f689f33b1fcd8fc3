#include "model/safetensors_header.h"

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <unordered_set>

namespace fla {
namespace {

constexpr size_t kMaxDimensions = 16;  // of a tensor; also bounds what a hostile array can hold
constexpr const char* kMetadata = "__metadata__";

using Json = nlohmann::json;

// Follows the parser through the only structure that a header may have.
class HeaderEvents : public nlohmann::json_sax<Json> {
 public:
  explicit HeaderEvents(const std::string& file) : file_(file) {}

  std::vector<HeaderEntry> TakeEntries() { return std::move(entries_); }

  bool start_object(size_t) override {
    switch (place_) {
      case Place::kBefore:
        place_ = Place::kHeader;
        return true;
      case Place::kTensorValue:
        place_ = Place::kTensor;
        entries_.push_back({name_, {}, {}, {}});
        seen_ = {};
        return true;
      case Place::kMetadataValue:
        place_ = Place::kMetadata;
        metadata_keys_.clear();
        return true;
      default:
        Unexpected("an object");
    }
  }

  bool end_object() override {
    if (place_ == Place::kTensor && !(seen_.dtype && seen_.shape && seen_.offsets)) {
      Fail("tensor " + name_ + ": wanted an object with dtype, shape and data_offsets");
    }
    place_ = place_ == Place::kHeader ? Place::kAfter : Place::kHeader;
    return true;
  }

  bool key(std::string& key) override {
    if (place_ == Place::kHeader) {
      if (!names_.insert(key).second) Fail("tensor " + key + " stands twice");
      name_ = key;
      place_ = key == kMetadata ? Place::kMetadataValue : Place::kTensorValue;
    } else if (place_ == Place::kMetadata) {
      if (!metadata_keys_.insert(key).second) Fail("__metadata__: key " + key + " stands twice");
    } else {
      bool& seen = key == "dtype"          ? seen_.dtype
                   : key == "shape"        ? seen_.shape
                   : key == "data_offsets" ? seen_.offsets
                                           : Unknown(key);
      if (seen) Fail("tensor " + name_ + ": key " + key + " stands twice");
      seen = true;
      place_ = key == "dtype"   ? Place::kDType
               : key == "shape" ? Place::kShapeValue
                                : Place::kOffsetsValue;
    }
    return true;
  }

  bool string(std::string& value) override {
    if (place_ == Place::kMetadata) return true;
    if (place_ != Place::kDType) Unexpected("a string");
    entries_.back().dtype = value;
    place_ = Place::kTensor;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ != Place::kShapeValue && place_ != Place::kOffsetsValue) Unexpected("an array");
    place_ = place_ == Place::kShapeValue ? Place::kShape : Place::kOffsets;
    return true;
  }

  bool end_array() override {
    place_ = Place::kTensor;
    return true;
  }

  bool number_unsigned(uint64_t value) override {
    if (place_ != Place::kShape && place_ != Place::kOffsets) Unexpected("a number");
    std::vector<int64_t>& numbers =
        place_ == Place::kShape ? entries_.back().shape : entries_.back().data_offsets;
    if (value > INT64_MAX) Unexpected(std::to_string(value));
    if (numbers.size() == kMaxDimensions) {
      Fail("tensor " + name_ + ": wanted at most " + std::to_string(kMaxDimensions) +
           " dimensions");
    }
    numbers.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool number_integer(int64_t value) override { Unexpected(std::to_string(value)); }
  bool number_float(double, const std::string& text) override { Unexpected(text.substr(0, 40)); }
  bool null() override { Unexpected("null"); }
  bool boolean(bool value) override { Unexpected(value ? "true" : "false"); }
  bool binary(Json::binary_t&) override { Unexpected("binary"); }
  bool parse_error(size_t, const std::string&, const Json::exception& error) override {
    Fail(std::string("wanted JSON: ") + std::string(error.what()).substr(0, 300));
  }

 private:
  enum class Place : uint8_t {
    kBefore,
    kHeader,
    kTensorValue,
    kTensor,
    kDType,
    kShapeValue,
    kShape,
    kOffsetsValue,
    kOffsets,
    kMetadataValue,
    kMetadata,
    kAfter,
  };

  [[noreturn]] void Fail(const std::string& what) const {
    throw std::runtime_error(file_ + ": header: " + what);
  }

  bool& Unknown(const std::string& key) const {
    Fail("tensor " + name_ + ": key " + key.substr(0, 80) +
         ": wanted one of dtype, shape, data_offsets");
  }

  [[noreturn]] void Unexpected(const std::string& got) const {
    switch (place_) {
      case Place::kBefore:
      case Place::kAfter:
        Fail("wanted a JSON object, got " + got);
      case Place::kShapeValue:
      case Place::kShape:
        Fail("tensor " + name_ + ": shape: wanted an array of non-negative integers, got " + got);
      case Place::kOffsetsValue:
      case Place::kOffsets:
        Fail("tensor " + name_ + ": data_offsets: wanted an array of non-negative integers, got " +
             got);
      case Place::kDType:
        Fail("tensor " + name_ + ": dtype: wanted a string, got " + got);
      case Place::kMetadataValue:
      case Place::kMetadata:
        Fail("__metadata__: wanted an object of strings, got " + got);
      default:
        Fail("tensor " + name_ + ": wanted an object with dtype, shape and data_offsets, got " +
             got);
    }
  }

  const std::string& file_;
  Place place_ = Place::kBefore;
  std::string name_;
  struct {
    bool dtype = false, shape = false, offsets = false;
  } seen_;
  std::unordered_set<std::string> names_;
  std::unordered_set<std::string> metadata_keys_;
  std::vector<HeaderEntry> entries_;
};

}  // namespace

std::vector<HeaderEntry> ParseSafetensorsHeader(const std::string& file, std::string_view text) {
  HeaderEvents events(file);
  Json::sax_parse(text, &events);
  return events.TakeEntries();
}

}  // namespace fla
