// Who may do what: a file of hashed keys.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace fla {

enum class Role {
  kUser,   // Inference, and what Control tells
  kAdmin,  // what Control changes as well
};

struct ApiKey {
  std::string name;
  Role role = Role::kUser;
  std::array<uint8_t, 32> sha256{};  // of the key
};

// The keys of a file: a line each, "NAME user|admin SHA256", 64 hexadecimal digits; empty lines and
// those that begin with # do not count. A plain hash is enough because keys are long and random
// (`fla-cli new-key`), not chosen by people.
//
// Thread safety: immutable.
class ApiKeys {
 public:
  // Throws std::runtime_error "file:line: what: wanted, got" for a file that cannot be read, has no
  // key, or a line that is none or doubles a name or a key. Messages do not repeat hashes.
  static ApiKeys Load(const std::filesystem::path& file);
  static ApiKeys Parse(std::string_view text, const std::string& file);

  // Null if there is no such key. Takes as long for any key of a length, whether it is there or
  // not.
  const ApiKey* Find(std::string_view key) const;

 private:
  std::vector<ApiKey> keys_;
};

}  // namespace fla
