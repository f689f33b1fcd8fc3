#include "model/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <set>
#include <stdexcept>
#include <utility>

#include "model/json_file.h"

namespace fla {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit

[[noreturn]] void Fail(const std::string& file, const std::string& what) {
  throw std::runtime_error(file + ": " + what);
}

std::optional<DType> ParseDType(const std::string& name) {
  if (name == "F32") return DType::kF32;
  if (name == "F16") return DType::kF16;
  if (name == "BF16") return DType::kBF16;
  return std::nullopt;
}

// The non-negative integers of a JSON array.
std::vector<int64_t> Integers(const std::string& file, const std::string& tensor,
                              const std::string& key, const nlohmann::json& object) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_array()) {
    Fail(file, "tensor " + tensor + ": " + key + ": wanted an array of integers");
  }
  std::vector<int64_t> values;
  for (const auto& value : *found) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > INT64_MAX) {
      Fail(file, "tensor " + tensor + ": " + key + ": wanted non-negative integers, got " +
                     found->dump().substr(0, 80));
    }
    values.push_back(value.get<int64_t>());
  }
  return values;
}

// Product of a shape, or nothing where it overflows.
std::optional<int64_t> ElementCount(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) {
    if (__builtin_mul_overflow(count, size, &count)) return std::nullopt;
  }
  return count;
}

}  // namespace

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// A file mapped read-only.
class Checkpoint::Mapping {
 public:
  explicit Mapping(const std::filesystem::path& path) {
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) Fail(path.string(), std::string("cannot open: ") + std::strerror(errno));
    struct stat status {};
    if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
      close(descriptor);
      Fail(path.string(), "wanted a regular file");
    }
    size_ = static_cast<size_t>(status.st_size);
    if (size_ > 0) {
      data_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    }
    close(descriptor);
    if (data_ == MAP_FAILED) {
      Fail(path.string(), std::string("cannot map: ") + std::strerror(errno));
    }
  }
  ~Mapping() {
    if (data_ != nullptr) munmap(data_, size_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::string_view bytes() const { return {static_cast<const char*>(data_), size_}; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

Checkpoint::Checkpoint() = default;
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

void Checkpoint::ParseHeader(const std::string& file, std::string_view header,
                             std::string_view payload) {
  const nlohmann::json json = ParseJson(file + ": header", header);
  if (!json.is_object()) Fail(file, "header: wanted a JSON object");
  std::vector<std::pair<int64_t, int64_t>> ranges;
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") continue;
    if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string()) {
      Fail(file, "tensor " + name + ": wanted an object with dtype, shape and data_offsets");
    }
    StoredTensor tensor;
    tensor.file = file;
    const std::string dtype = entry["dtype"].get<std::string>();
    const std::optional<DType> parsed = ParseDType(dtype);
    if (!parsed) Fail(file, "tensor " + name + ": dtype: wanted F32, F16 or BF16, got " + dtype);
    tensor.dtype = *parsed;
    tensor.shape = Integers(file, name, "shape", entry);
    const std::vector<int64_t> offsets = Integers(file, name, "data_offsets", entry);
    if (offsets.size() != 2 || offsets[0] > offsets[1] ||
        static_cast<uint64_t>(offsets[1]) > payload.size()) {
      Fail(file, "tensor " + name + ": data_offsets: wanted [begin, end] within the " +
                     std::to_string(payload.size()) + " bytes after the header, got " +
                     ShapeText(offsets) + " (truncated file?)");
    }
    const std::optional<int64_t> elements = ElementCount(tensor.shape);
    int64_t wanted = 0;
    if (!elements ||
        __builtin_mul_overflow(*elements, static_cast<int64_t>(SizeOf(tensor.dtype)), &wanted) ||
        wanted != offsets[1] - offsets[0]) {
      Fail(file, "tensor " + name + ": shape " + ShapeText(tensor.shape) + " of " + dtype +
                     " does not fit its " + std::to_string(offsets[1] - offsets[0]) + " bytes");
    }
    tensor.elements = *elements;
    tensor.data = payload.data() + offsets[0];
    ranges.emplace_back(offsets[0], offsets[1]);
    if (!tensors_.emplace(name, std::move(tensor)).second) {
      Fail(file, "tensor " + name + ": stands in another file of the checkpoint too");
    }
  }
  std::sort(ranges.begin(), ranges.end());
  int64_t end = 0;
  for (const auto& [begin, stop] : ranges) {
    if (begin != end) {
      Fail(file, "data_offsets: " + std::string(begin < end ? "overlap" : "gap") + " at byte " +
                     std::to_string(begin) + ", wanted " + std::to_string(end));
    }
    end = stop;
  }
  if (static_cast<uint64_t>(end) != payload.size()) {
    Fail(file, "data_offsets end at byte " + std::to_string(end) + ", but the file has " +
                   std::to_string(payload.size()) + " bytes after the header");
  }
}

void Checkpoint::AddFile(const std::filesystem::path& path) {
  mappings_.push_back(std::make_unique<Mapping>(path));
  const std::string_view bytes = mappings_.back()->bytes();
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof header_bytes) {
    Fail(path.string(),
         "wanted a safetensors file, got " + std::to_string(bytes.size()) + " bytes");
  }
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size() - sizeof header_bytes) {
    Fail(path.string(), "header: wanted at most " +
                            std::to_string(std::min<uint64_t>(kMaxHeaderBytes, bytes.size() - 8)) +
                            " bytes, got " + std::to_string(header_bytes));
  }
  ParseHeader(path.string(), bytes.substr(sizeof header_bytes, header_bytes),
              bytes.substr(sizeof header_bytes + header_bytes));
}

Checkpoint Checkpoint::Open(const std::filesystem::path& folder) {
  Checkpoint checkpoint;
  checkpoint.folder_ = folder;
  const std::filesystem::path index = folder / "model.safetensors.index.json";
  if (!std::filesystem::exists(index)) {
    checkpoint.AddFile(folder / "model.safetensors");
    return checkpoint;
  }
  const nlohmann::json json = ReadJsonFile(index);
  const auto map = json.find("weight_map");
  if (map == json.end() || !map->is_object()) {
    Fail(index.string(), "weight_map: wanted an object of tensor names to file names");
  }
  std::set<std::string> files;
  for (const auto& [tensor, file] : map->items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    if (name.empty() || name != std::filesystem::path(name).filename() || name == "..") {
      Fail(index.string(), "weight_map: " + tensor +
                               ": wanted the name of a file in this folder, got " +
                               file.dump().substr(0, 200));
    }
    files.insert(name);
  }
  for (const std::string& file : files) checkpoint.AddFile(folder / file);
  for (const auto& [tensor, file] : map->items()) {
    const auto found = checkpoint.tensors_.find(tensor);
    const std::string wanted = (folder / file.get<std::string>()).string();
    if (found == checkpoint.tensors_.end() || found->second.file != wanted) {
      Fail(index.string(), "weight_map: " + tensor + ": is not in " + wanted);
    }
  }
  return checkpoint;
}

int64_t Checkpoint::bytes() const {
  int64_t total = 0;
  for (const auto& [name, tensor] : tensors_) {
    total += tensor.elements * static_cast<int64_t>(SizeOf(tensor.dtype));
  }
  return total;
}

}  // namespace fla
