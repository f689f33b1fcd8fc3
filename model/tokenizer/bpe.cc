#include "model/tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <stdexcept>

#include "model/tokenizer/byte_level.h"
#include "model/unicode.h"

namespace fla::tokenizer {
namespace {

constexpr uint64_t kNoPair = ~uint64_t{0};
constexpr size_t kJoinedBits = size_t{1} << 21;
constexpr size_t kShortWord = 24;  // symbols up to which a plain search beats the heap

uint64_t PairOf(int left, int right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

uint64_t Mix(uint64_t x) {
  x *= 0x9E3779B97F4A7C15u;
  return x ^ x >> 32;
}

size_t JoinedBit(char32_t left, char32_t right) {
  return Mix(static_cast<uint64_t>(left) << 32 | right) % kJoinedBits;
}

}  // namespace

MergeTable::MergeTable(size_t merges)
    : slots_(std::bit_ceil(2 * merges + 2), Slot{kNoPair, {0, 0}}) {}

size_t MergeTable::Place(uint64_t pair) const {
  size_t place = Mix(pair) & (slots_.size() - 1);
  while (slots_[place].pair != pair && slots_[place].pair != kNoPair) {
    place = (place + 1) & (slots_.size() - 1);
  }
  return place;
}

void MergeTable::Insert(int left, int right, Merge merge) {
  const uint64_t pair = PairOf(left, right);
  slots_[Place(pair)] = {pair, merge};
}

const MergeTable::Merge* MergeTable::Find(int left, int right) const {
  const Slot& slot = slots_[Place(PairOf(left, right))];
  return slot.pair == kNoPair ? nullptr : &slot.merge;
}

namespace {

int FindMergeToken(const Vocabulary& vocabulary, const std::string& text, size_t merge) {
  const int id = vocabulary.Find(text);
  if (id < 0) {
    throw std::runtime_error("merges: entry " + std::to_string(merge) +
                             ": wanted tokens of the vocabulary, got '" + text + "'");
  }
  return id;
}

// Fills `joined` if the text may be cut at all: every character has a token of its own, so that
// none is dropped or fused with its neighbours, and no merge takes a byte or the unknown token.
void FillJoined(const MergeList& merges, Bpe* bpe) {
  const BpeOptions& options = bpe->options;
  if (!options.continuing_subword_prefix.empty() || !options.end_of_word_suffix.empty()) return;
  if (std::count(bpe->byte_ids.begin(), bpe->byte_ids.end(), -1) > 0) return;
  std::vector<bool> joined(kJoinedBits);
  for (const auto& [left, right] : merges.pairs) {
    if (ByteOfToken(left) >= 0 || ByteOfToken(right) >= 0) return;
    const std::string text = left + right;
    char32_t before = 0;
    for (size_t i = 0; i < text.size();) {
      const bool first = i == 0;
      const char32_t c = unicode::Next(text, &i);
      if (!first) joined[JoinedBit(before, c)] = true;
      before = c;
    }
  }
  bpe->joined = std::move(joined);
}

}  // namespace

Bpe MakeBpe(const Vocabulary& vocabulary, const MergeList& merges, BpeOptions options,
            bool byte_level) {
  Bpe bpe;
  bpe.options = std::move(options);
  if (bpe.options.unk_token) {
    bpe.unk_id = vocabulary.Find(*bpe.options.unk_token);
    if (bpe.unk_id < 0) {
      throw std::runtime_error("unk_token: wanted a token of the vocabulary, got '" +
                               *bpe.options.unk_token + "'");
    }
  }
  bpe.merges = MergeTable(merges.pairs.size());
  const std::string& prefix = bpe.options.continuing_subword_prefix;
  for (size_t i = 0; i < merges.pairs.size(); ++i) {
    const auto& [left, right] = merges.pairs[i];
    const int left_id = FindMergeToken(vocabulary, left, i);
    const int right_id = FindMergeToken(vocabulary, right, i);
    if (!right.starts_with(prefix)) {
      throw std::runtime_error("merges: entry " + std::to_string(i) + ": wanted '" + prefix +
                               "' before its right part, got '" + right + "'");
    }
    const int id = FindMergeToken(vocabulary, left + right.substr(prefix.size()), i);
    bpe.merges.Insert(left_id, right_id, {static_cast<uint32_t>(i), id});
  }
  bool all_letters = true;
  for (int byte = 0; byte < 256; ++byte) {
    const auto b = static_cast<unsigned char>(byte);
    bpe.byte_ids[byte] = bpe.options.byte_fallback ? vocabulary.Find(ByteToken(b)) : -1;
    bpe.letter_ids[byte] = vocabulary.Find(CharacterOfByte(b));
    all_letters = all_letters && bpe.letter_ids[byte] >= 0;
  }
  bpe.bytes_in =
      byte_level && all_letters && prefix.empty() && bpe.options.end_of_word_suffix.empty();
  if (!bpe.bytes_in) {
    FillJoined(merges, &bpe);
  } else if (bpe.options.ignore_merges) {
    std::string bytes;
    for (int id = 0; id < vocabulary.size(); ++id) {
      if (BytesOfCharacters(vocabulary.text(id), &bytes) && !bytes.empty()) bpe.words[bytes] = id;
    }
  }
  return bpe;
}

namespace {

// The ids of the characters of `word` before any merge.
void InitialIds(const Bpe& bpe, const Vocabulary& vocabulary, std::string_view word,
                std::vector<int>* ids) {
  ids->clear();
  if (bpe.bytes_in) {
    for (const char c : word) ids->push_back(bpe.letter_ids[static_cast<uint8_t>(c)]);
    return;
  }
  const std::string& prefix = bpe.options.continuing_subword_prefix;
  const std::string& suffix = bpe.options.end_of_word_suffix;
  bool pending_unk = false;
  std::string affixed;
  for (size_t i = 0; i < word.size();) {
    const size_t begin = i;
    i += unicode::CharacterBytes(word[i]);
    std::string_view text = word.substr(begin, i - begin);
    const bool has_prefix = begin > 0 && !prefix.empty();
    const bool has_suffix = i == word.size() && !suffix.empty();
    if (has_prefix || has_suffix) {
      affixed = (has_prefix ? prefix : "") + std::string(text) + (has_suffix ? suffix : "");
      text = affixed;
    }
    if (const int id = vocabulary.Find(text); id >= 0) {
      if (pending_unk) ids->push_back(bpe.unk_id);
      pending_unk = false;
      ids->push_back(id);
      continue;
    }
    if (std::all_of(text.begin(), text.end(),
                    [&](char c) { return bpe.byte_ids[static_cast<uint8_t>(c)] >= 0; })) {
      for (const char c : text) ids->push_back(bpe.byte_ids[static_cast<uint8_t>(c)]);
      continue;
    }
    if (bpe.unk_id < 0) continue;  // unknown characters vanish, as in the tokenizers library
    if (pending_unk && !bpe.options.fuse_unk) ids->push_back(bpe.unk_id);
    pending_unk = true;
  }
  if (pending_unk) ids->push_back(bpe.unk_id);
}

void MergeShort(const Bpe& bpe, std::vector<int>* ids) {
  constexpr MergeTable::Merge kNone{UINT32_MAX, -1};
  MergeTable::Merge merges[kShortWord];  // of the symbols i and i + 1
  size_t n = ids->size();
  int* const id = ids->data();
  const auto find = [&](size_t left) {
    const auto* merge = bpe.merges.Find(id[left], id[left + 1]);
    return merge == nullptr ? kNone : *merge;
  };
  for (size_t i = 0; i + 1 < n; ++i) merges[i] = find(i);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (merges[i].rank < merges[best].rank) best = i;
    }
    if (merges[best].rank == UINT32_MAX) break;
    id[best] = merges[best].id;
    for (size_t i = best + 1; i + 1 < n; ++i) {
      id[i] = id[i + 1];
      merges[i - 1] = merges[i];
    }
    --n;
    if (best > 0) merges[best - 1] = find(best - 1);
    if (best + 1 < n) merges[best] = find(best);
  }
  ids->resize(n);
}

void MergeLong(const Bpe& bpe, BpeScratch* scratch, std::vector<int>* ids) {
  using Candidate = BpeScratch::Candidate;
  constexpr int kMerged = -2;
  auto& symbols = scratch->symbols;
  auto& heap = scratch->heap;
  const auto later = [](const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.left > b.left;
  };
  const int n = static_cast<int>(ids->size());
  symbols.clear();
  heap.clear();
  for (int i = 0; i < n; ++i) symbols.push_back({(*ids)[i], i - 1, i + 1 < n ? i + 1 : -1});
  const auto candidate = [&](int left) {
    const int right = symbols[left].next;
    const auto* merge = right < 0 ? nullptr : bpe.merges.Find(symbols[left].id, symbols[right].id);
    if (merge != nullptr) heap.push_back({merge->rank, left, merge->id});
    return merge != nullptr;
  };
  for (int i = 0; i < n; ++i) candidate(i);
  std::make_heap(heap.begin(), heap.end(), later);
  while (!heap.empty()) {
    const Candidate top = heap.front();
    std::pop_heap(heap.begin(), heap.end(), later);
    heap.pop_back();
    auto& left = symbols[top.left];
    if (left.next < 0) continue;
    auto& right = symbols[left.next];
    const auto* merge = bpe.merges.Find(left.id, right.id);
    if (merge == nullptr || merge->id != top.id) continue;  // a neighbour has changed since
    left.id = top.id;
    left.next = right.next;
    right.next = kMerged;
    if (left.next >= 0) symbols[left.next].previous = top.left;
    if (left.previous >= 0 && candidate(left.previous)) {
      std::push_heap(heap.begin(), heap.end(), later);
    }
    if (candidate(top.left)) std::push_heap(heap.begin(), heap.end(), later);
  }
  ids->clear();
  for (int i = 0; i >= 0 && i < n; i = symbols[i].next) ids->push_back(symbols[i].id);
}

// Merges a word that the cache does not know, and keeps it there.
void MergeWord(const Bpe& bpe, const Vocabulary& vocabulary, std::string_view word,
               BpeScratch* scratch, std::vector<int>* ids) {
  std::vector<int>& symbols = scratch->ids;
  InitialIds(bpe, vocabulary, word, &symbols);
  if (symbols.size() <= kShortWord) {
    MergeShort(bpe, &symbols);
  } else {
    MergeLong(bpe, scratch, &symbols);
  }
  scratch->cache.Keep(word, symbols);
  ids->insert(ids->end(), symbols.begin(), symbols.end());
}

int FindWhole(const Bpe& bpe, const Vocabulary& vocabulary, std::string_view word) {
  if (word.size() > vocabulary.longest()) return -1;
  if (!bpe.bytes_in) return vocabulary.Find(word);
  const auto it = bpe.words.find(std::string(word));
  return it == bpe.words.end() ? -1 : it->second;
}

// A word in the pieces between which no merge can reach.
void EncodePieces(const Bpe& bpe, const Vocabulary& vocabulary, std::string_view word,
                  BpeScratch* scratch, std::vector<int>* ids) {
  const auto encode = [&](std::string_view piece) {
    if (!scratch->cache.Find(piece, ids)) MergeWord(bpe, vocabulary, piece, scratch, ids);
  };
  size_t begin = 0;
  size_t i = 0;
  char32_t before = unicode::Next(word, &i);
  while (i < word.size()) {
    const size_t here = i;
    const char32_t c = unicode::Next(word, &i);
    if (!bpe.joined[JoinedBit(before, c)]) {
      encode(word.substr(begin, here - begin));
      begin = here;
    }
    before = c;
  }
  encode(word.substr(begin));
}

}  // namespace

void EncodeBpe(const Bpe& bpe, const Vocabulary& vocabulary, std::string_view word,
               BpeScratch* scratch, std::vector<int>* ids) {
  if (word.empty()) return;
  const bool in_pieces = !bpe.joined.empty();
  // The cache holds whole words, or pieces where there are any.
  if (!in_pieces && scratch->cache.Find(word, ids)) return;
  if (bpe.options.ignore_merges) {
    if (const int whole = FindWhole(bpe, vocabulary, word); whole >= 0) {
      if (!in_pieces) scratch->cache.Keep(word, std::span(&whole, 1));
      ids->push_back(whole);
      return;
    }
  }
  if (in_pieces) return EncodePieces(bpe, vocabulary, word, scratch, ids);
  MergeWord(bpe, vocabulary, word, scratch, ids);
}

}  // namespace fla::tokenizer
