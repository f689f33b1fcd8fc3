// Encodes a text once by a tokenizer that has met nothing yet, on one thread:
//
//   tokenizer_bench FOLDER FILE lines|whole
//
// Prints {"cpu_seconds": .., "wall_seconds": .., "tokens": .., "checksum": ..}, the sum of each id
// times its place, modulo 2^64. bench/tokenizer_bench.py compares it with Hugging Face's library.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <exception>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer.h"

namespace {

std::vector<std::string_view> Split(std::string_view text, bool in_lines) {
  if (!in_lines) return {text};
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const size_t bytes = end == std::string_view::npos ? text.size() : end + 1;
    lines.push_back(text.substr(0, bytes));
    text.remove_prefix(bytes);
  }
  return lines;
}

double CpuSeconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view form = argc == 4 ? argv[3] : "";
  if (form != "lines" && form != "whole") {
    std::fprintf(stderr, "usage: tokenizer_bench FOLDER FILE lines|whole\n");
    return 2;
  }
  try {
    const auto tokenizer = fla::Tokenizer::Load(argv[1]);
    std::ifstream file(argv[2], std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    const std::vector<std::string_view> parts = Split(text, form == "lines");
    std::vector<std::vector<int>> ids;
    ids.reserve(parts.size());
    const auto begin = std::chrono::steady_clock::now();
    const double cpu_begin = CpuSeconds();
    for (const std::string_view part : parts) ids.push_back(tokenizer->Encode(part, false));
    const double cpu = CpuSeconds() - cpu_begin;
    const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - begin;
    uint64_t tokens = 0, checksum = 0;
    for (const auto& list : ids) {
      for (const int id : list) checksum += static_cast<uint64_t>(id) * ++tokens;
    }
    std::printf(
        "{\"cpu_seconds\": %.4f, \"wall_seconds\": %.4f, \"tokens\": %llu, \"checksum\": %llu}\n",
        cpu, wall.count(), static_cast<unsigned long long>(tokens),
        static_cast<unsigned long long>(checksum));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
