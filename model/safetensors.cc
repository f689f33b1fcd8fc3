#include "model/safetensors.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>
#include <stdexcept>
#include <utility>

#include "model/git_lfs.h"
#include "model/json_file.h"
#include "model/safetensors_header.h"

namespace fla {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr uintmax_t kMaxIndexBytes = 32'000'000;   // a hundred times what large checkpoints have
constexpr StoredDType kStoredDTypes[] = {StoredDType::kF32, StoredDType::kF16, StoredDType::kBF16,
                                         StoredDType::kF8E4M3};

[[noreturn]] void Fail(const std::string& file, const std::string& what) {
  throw std::runtime_error(file + ": " + what);
}

StoredDType ParseDType(const std::string& file, const std::string& tensor,
                       const std::string& name) {
  std::string known;
  for (const StoredDType dtype : kStoredDTypes) {
    if (name == NameOf(dtype)) return dtype;
    known += (known.empty() ? "" : ", ") + std::string(NameOf(dtype));
  }
  Fail(file,
       "tensor " + tensor + ": dtype: wanted one of " + known + ", got " + name.substr(0, 40));
}

// Product of a shape, or nothing where it overflows.
std::optional<int64_t> ElementCount(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) {
    if (__builtin_mul_overflow(count, size, &count)) return std::nullopt;
  }
  return count;
}

// An entry of the header as a tensor of a file whose elements begin at byte `begin`.
StoredTensor ToTensor(const CheckpointFile& file, int64_t begin, const HeaderEntry& entry) {
  StoredTensor tensor;
  tensor.name = entry.name;
  tensor.source = &file;
  tensor.dtype = ParseDType(file.name(), entry.name, entry.dtype);
  tensor.shape = entry.shape;
  const std::vector<int64_t>& offsets = entry.data_offsets;
  if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > file.size() - begin) {
    Fail(file.name(), "tensor " + entry.name + ": data_offsets: wanted [begin, end] within the " +
                          std::to_string(file.size() - begin) + " bytes after the header, got " +
                          ShapeText(offsets) + " (truncated file?)");
  }
  tensor.offset = begin + offsets[0];
  const std::optional<int64_t> elements = ElementCount(tensor.shape);
  int64_t wanted = 0;
  if (!elements || __builtin_mul_overflow(*elements, SizeOf(tensor.dtype), &wanted) ||
      wanted != offsets[1] - offsets[0]) {
    Fail(file.name(), "tensor " + entry.name + ": shape " + ShapeText(tensor.shape) + " of " +
                          entry.dtype + " does not fit its " +
                          std::to_string(offsets[1] - offsets[0]) + " bytes");
  }
  tensor.elements = *elements;
  return tensor;
}

// Throws unless the tensors cover the bytes after the header, each byte once.
void RequireNoGaps(const std::string& file, const std::vector<HeaderEntry>& entries,
                   int64_t payload) {
  std::vector<std::pair<int64_t, int64_t>> ranges;
  ranges.reserve(entries.size());
  for (const HeaderEntry& entry : entries) {
    ranges.emplace_back(entry.data_offsets[0], entry.data_offsets[1]);
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
  if (end != payload) {
    Fail(file, "data_offsets end at byte " + std::to_string(end) + ", but the file has " +
                   std::to_string(payload) + " bytes after the header");
  }
}

// Says which files there are that somebody may have taken for the weights.
[[noreturn]] void FailWithoutWeights(const std::filesystem::path& folder) {
  constexpr size_t kMostNamed = 4;
  std::set<std::string> others;
  bool pickled = false;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string extension = entry->path().extension().string();
    const bool pickle = extension == ".bin" || extension == ".pt" || extension == ".pth";
    pickled |= pickle;
    if (pickle || extension == ".safetensors") others.insert(entry->path().filename().string());
  }
  std::string got;
  size_t named = 0;
  for (const std::string& name : others) {
    if (++named > kMostNamed) {
      got += ", ..";
      break;
    }
    got += (got.empty() ? "" : ", ") + name.substr(0, 80);
  }
  Fail(folder.string(),
       "weights: wanted model.safetensors or model.safetensors.index.json, got " +
           (got.empty() ? "none" : got) +
           (pickled ? " (pickles of PyTorch are not read: save them as safetensors)" : ""));
}

}  // namespace

const char* NameOf(StoredDType dtype) {
  switch (dtype) {
    case StoredDType::kF32:
      return "F32";
    case StoredDType::kF16:
      return "F16";
    case StoredDType::kBF16:
      return "BF16";
    case StoredDType::kF8E4M3:
      return "F8_E4M3";
  }
  return "?";
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

void Checkpoint::AddFile(const std::filesystem::path& path) {
  files_.push_back(std::make_unique<CheckpointFile>(path));
  const CheckpointFile& file = *files_.back();
  uint64_t header_bytes = 0;
  constexpr int64_t kPrefix = sizeof header_bytes;
  if (file.size() < kPrefix) {
    Fail(file.name(), "wanted a safetensors file, got " + std::to_string(file.size()) + " bytes");
  }
  file.Read(0, {reinterpret_cast<char*>(&header_bytes), sizeof header_bytes});
  const auto most = std::min<uint64_t>(kMaxHeaderBytes, file.size() - kPrefix);
  if (header_bytes > most) {
    std::string begin(std::min<int64_t>(file.size(), 64), '\0');
    file.Read(0, begin);
    if (IsGitLfsPointer(begin)) {
      Fail(file.name(), std::string("wanted a safetensors file, got ") + kGitLfsPointer);
    }
    Fail(file.name(), "header: wanted at most " + std::to_string(most) + " bytes, got " +
                          std::to_string(header_bytes) + " (truncated, or no safetensors file?)");
  }
  std::string header(header_bytes, '\0');
  file.Read(kPrefix, header);
  const std::vector<HeaderEntry> entries = ParseSafetensorsHeader(file.name(), header);
  const int64_t begin = kPrefix + static_cast<int64_t>(header_bytes);
  for (const HeaderEntry& entry : entries) {
    if (!tensors_.emplace(entry.name, ToTensor(file, begin, entry)).second) {
      Fail(file.name(), "tensor " + entry.name + ": stands in another file of the checkpoint too");
    }
  }
  RequireNoGaps(file.name(), entries, file.size() - begin);
}

Checkpoint Checkpoint::Open(const std::filesystem::path& folder) {
  Checkpoint checkpoint;
  checkpoint.folder_ = folder;
  const std::filesystem::path index = folder / "model.safetensors.index.json";
  if (!std::filesystem::exists(index)) {
    const std::filesystem::path file = folder / "model.safetensors";
    std::error_code error;
    if (std::filesystem::symlink_status(file, error).type() ==
        std::filesystem::file_type::not_found) {
      FailWithoutWeights(folder);
    }
    checkpoint.AddFile(file);  // which names a link that leads nowhere
    return checkpoint;
  }
  const nlohmann::json json = ReadJsonFile(index, kMaxIndexBytes);
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
    if (found == checkpoint.tensors_.end() || found->second.file() != wanted) {
      Fail(index.string(), "weight_map: " + tensor + ": is not in " + wanted);
    }
  }
  return checkpoint;
}

int64_t Checkpoint::bytes() const {
  int64_t total = 0;
  for (const auto& [name, tensor] : tensors_) {
    total += tensor.bytes();
  }
  return total;
}

}  // namespace fla
