#include "model/tokenizer/unigram.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "model/unicode.h"

namespace fla::tokenizer {
namespace {

constexpr double kUnknownPenalty = 10.0;  // below the lowest score, as in sentencepiece

}  // namespace

Unigram MakeUnigram(const Vocabulary& vocabulary, std::vector<double> scores, int unk_id,
                    bool byte_fallback) {
  if (unk_id < -1 || unk_id >= vocabulary.size()) {
    throw std::runtime_error("unk_id: wanted an id below " + std::to_string(vocabulary.size()) +
                             ", got " + std::to_string(unk_id));
  }
  Unigram unigram;
  unigram.scores = std::move(scores);
  unigram.unk_id = unk_id;
  double lowest = std::numeric_limits<double>::infinity();
  for (const double score : unigram.scores) lowest = std::min(lowest, score);
  unigram.unk_score = lowest - kUnknownPenalty;
  for (int id = 0; id < vocabulary.size(); ++id) {
    if (!vocabulary.text(id).empty()) unigram.trie.Insert(vocabulary.text(id), id);
  }
  for (int byte = 0; byte < 256; ++byte) {
    unigram.byte_ids[byte] =
        byte_fallback ? vocabulary.Find(ByteToken(static_cast<unsigned char>(byte))) : -1;
  }
  return unigram;
}

namespace {

void FillNodes(const Unigram& unigram, std::string_view word,
               std::vector<UnigramScratch::Node>* nodes) {
  nodes->assign(word.size() + 1, {0, 0, -1});
  const auto offer = [&](size_t begin, size_t end, int id, double score) {
    auto& node = (*nodes)[end];
    if (node.id < 0 || score > node.score) node = {score, begin, id};
  };
  for (size_t begin = 0; begin < word.size();) {
    const size_t character = unicode::CharacterBytes(word[begin]);
    const double before = (*nodes)[begin].score;
    bool known = false;
    unigram.trie.ForEachPrefix(word.substr(begin), [&](size_t bytes, int id) {
      offer(begin, begin + bytes, id, before + unigram.scores[id]);
      known = known || bytes == character;
    });
    if (!known) {
      if (unigram.unk_id < 0) {
        throw std::runtime_error("character '" + std::string(word.substr(begin, character)) +
                                 "' has no token, and the model no unknown token");
      }
      offer(begin, begin + character, unigram.unk_id, before + unigram.unk_score);
    }
    begin += character;
  }
}

// The tokens of a run of unknown characters, last first.
void AppendUnknown(const Unigram& unigram, const Vocabulary& vocabulary, std::string_view text,
                   std::vector<int>* reversed) {
  if (const int id = vocabulary.Find(text); id >= 0) {
    reversed->push_back(id);
    return;
  }
  const auto byte_id = [&](char c) { return unigram.byte_ids[static_cast<uint8_t>(c)]; };
  if (std::any_of(text.begin(), text.end(), [&](char c) { return byte_id(c) < 0; })) {
    reversed->push_back(unigram.unk_id);
    return;
  }
  for (size_t i = text.size(); i > 0; --i) reversed->push_back(byte_id(text[i - 1]));
}

}  // namespace

void EncodeUnigram(const Unigram& unigram, const Vocabulary& vocabulary, std::string_view word,
                   UnigramScratch* scratch, std::vector<int>* ids) {
  if (word.empty() || scratch->cache.Find(word, ids)) return;
  auto& nodes = scratch->nodes;
  auto& reversed = scratch->reversed;
  FillNodes(unigram, word, &nodes);
  reversed.clear();
  for (size_t end = word.size(); end > 0;) {
    if (nodes[end].id != unigram.unk_id) {
      reversed.push_back(nodes[end].id);
      end = nodes[end].begin;
      continue;
    }
    size_t begin = end;
    while (begin > 0 && nodes[begin].id == unigram.unk_id) begin = nodes[begin].begin;
    AppendUnknown(unigram, vocabulary, word.substr(begin, end - begin), &reversed);
    end = begin;
  }
  std::reverse(reversed.begin(), reversed.end());
  scratch->cache.Keep(word, reversed);
  ids->insert(ids->end(), reversed.begin(), reversed.end());
}

}  // namespace fla::tokenizer
