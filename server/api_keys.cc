#include "server/api_keys.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <stdexcept>

namespace fla {
namespace {

int DigitOf(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::optional<std::array<uint8_t, 32>> HashOf(std::string_view hex) {
  std::array<uint8_t, 32> hash;
  if (hex.size() != 2 * hash.size()) return std::nullopt;
  for (size_t i = 0; i < hash.size(); ++i) {
    const int high = DigitOf(hex[2 * i]), low = DigitOf(hex[2 * i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    hash[i] = static_cast<uint8_t>(high << 4 | low);
  }
  return hash;
}

}  // namespace

ApiKeys ApiKeys::Load(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream || std::filesystem::is_directory(file)) {
    throw std::runtime_error(file.string() + ": the file: wanted a readable file, got none");
  }
  const std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  return Parse(text, file.string());
}

ApiKeys ApiKeys::Parse(std::string_view text, const std::string& file) {
  ApiKeys result;
  std::istringstream lines{std::string(text)};
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    std::istringstream words(line);
    std::string name, role, hex, rest;
    words >> name >> role >> hex >> rest;
    if (name.empty() || name[0] == '#') continue;
    const auto fail = [&](const std::string& what) {
      throw std::runtime_error(file + ":" + std::to_string(number) + ": " + what);
    };
    const std::optional<std::array<uint8_t, 32>> hash = HashOf(hex);
    if ((role != "user" && role != "admin") || !hash || !rest.empty()) {
      fail("the line: wanted \"NAME user SHA256\" or \"NAME admin SHA256\", got another");
    }
    for (const ApiKey& other : result.keys_) {
      if (other.name == name) fail("the name: wanted one that no other key has, got it twice");
      if (other.sha256 == *hash) fail("the key: wanted one that is not there, got it twice");
    }
    result.keys_.push_back({name, role == "admin" ? Role::kAdmin : Role::kUser, *hash});
  }
  if (result.keys_.empty()) {
    throw std::runtime_error(file + ": the file: wanted at least one key, got none");
  }
  return result;
}

const ApiKey* ApiKeys::Find(std::string_view key) const {
  std::array<uint8_t, 32> hash;
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), hash.data());
  const ApiKey* found = nullptr;
  for (const ApiKey& one : keys_) {  // all of them, whichever it is
    if (CRYPTO_memcmp(one.sha256.data(), hash.data(), hash.size()) == 0) found = &one;
  }
  return found;
}

}  // namespace fla
