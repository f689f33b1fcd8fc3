// JSON of a checkpoint, parsed with errors that name the file.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace fla {

// Parses text; `file` stands in errors. Throws std::runtime_error for bad syntax, for a key that
// stands twice in one object and for nesting deeper than 64.
nlohmann::json ParseJson(const std::string& file, std::string_view text);

// Reads and parses a file. Throws std::runtime_error as ParseJson, and where it cannot be read or
// is larger than `max_bytes`, which also bounds the memory that its values take.
nlohmann::json ReadJsonFile(const std::filesystem::path& path, uintmax_t max_bytes = 4'000'000);

}  // namespace fla
