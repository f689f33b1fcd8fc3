#include "model/tokenizer/decoder.h"

#include <algorithm>
#include <functional>
#include <stdexcept>

#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/vocabulary.h"
#include "model/unicode.h"

namespace fla::tokenizer {
namespace {

using Next = std::function<void(std::string_view)>;

// What a step gets besides the token: whether the tokens have been fused before it, so that each
// text is a piece of one token, and whether nothing follows.
struct Context {
  DecodeState* state;
  bool fused;
  bool last;
  const Next& next;
};

bool Fuses(const DecodeStep& step) {
  return std::holds_alternative<FuseTokens>(step) ||
         std::holds_alternative<DecodeByteLevel>(step) ||
         std::holds_alternative<DecodeRawBytes>(step);
}

void Pass(const Context& context, std::string_view text) {
  if (!text.empty()) context.next(text);
}

// Passes on the whole characters of pending bytes.
void PassCharacters(const Context& context, bool bytewise) {
  std::string& pending = context.state->pending;
  std::string text;
  const bool more = !context.last;
  const size_t used = bytewise ? unicode::AppendValidBytewise(pending, more, &text)
                               : unicode::AppendValid(pending, more, &text);
  pending.erase(0, used);
  Pass(context, text);
}

// The overloads of Step are called for each token, and once more with an empty one when `last`.

void Step(DecodeRawBytes, std::string_view token, const Context& context) {
  context.state->pending += token;
  PassCharacters(context, false);
}

void Step(DecodeByteLevel, std::string_view token, const Context& context) {
  std::string bytes;
  const bool of_alphabet = BytesOfCharacters(token, &bytes);
  Step(DecodeRawBytes{}, of_alphabet ? std::string_view{bytes} : token, context);
}

void Step(DecodeByteFallback, std::string_view token, const Context& context) {
  const int byte = ByteOfToken(token);
  if (byte >= 0) {
    context.state->pending.push_back(static_cast<char>(byte));
    PassCharacters(context, true);
    return;
  }
  // Another token ends the run of bytes.
  const Context end{context.state, context.fused, true, context.next};
  PassCharacters(end, true);
  Pass(context, token);
}

void Step(FuseTokens, std::string_view token, const Context& context) { Pass(context, token); }

void Step(JoinWithSpaces, std::string_view token, const Context& context) {
  if (context.last) return;
  if (context.state->seen++ > 0) context.next(" ");
  Pass(context, token);
}

std::string_view StripToken(const StripCharacter& strip, std::string_view token) {
  for (size_t i = 0; i < strip.start && token.starts_with(strip.character); ++i) {
    token.remove_prefix(strip.character.size());
  }
  for (size_t i = 0; i < strip.stop && token.ends_with(strip.character); ++i) {
    token.remove_suffix(strip.character.size());
  }
  return token;
}

void Step(const StripCharacter& strip, std::string_view token, const Context& context) {
  if (!context.fused) return Pass(context, StripToken(strip, token));
  DecodeState& state = *context.state;
  while (state.seen < strip.start && token.starts_with(strip.character)) {
    token.remove_prefix(strip.character.size());
    ++state.seen;
  }
  if (!token.empty()) state.seen = strip.start;
  // The last `stop` of the character may be the end of the text.
  state.pending += token;
  std::string_view text = state.pending;
  size_t held = 0;
  while (held < strip.stop && text.ends_with(strip.character)) {
    text.remove_suffix(strip.character.size());
    ++held;
  }
  Pass(context, text);
  state.pending.erase(0, context.last ? state.pending.size() : text.size());
}

void Step(const DropFirstSpace& drop, std::string_view token, const Context& context) {
  size_t& seen = context.state->seen;
  if (seen == 0 && token.starts_with(drop.space)) {
    token.remove_prefix(drop.space.size());
    if (!drop.repeated) seen = 1;
  }
  if (!token.empty()) seen = 1;
  Pass(context, token);
}

void Step(const DecodeMetaspace& metaspace, std::string_view token, const Context& context) {
  const bool first = context.fused || context.state->seen == 0;
  context.state->seen = 1;
  const std::string space = first && metaspace.drop_first ? "" : " ";
  Pass(context, Replace({metaspace.replacement, space}, token));
}

void Step(const ReplaceAll& replace, std::string_view token, const Context& context) {
  if (!context.fused) return Pass(context, Replace(replace, token));
  // A match may span pieces: hold back from where one may begin. A regular expression says nothing
  // of that before the end.
  std::string& pending = context.state->pending;
  pending += token;
  const auto* literal = std::get_if<std::string>(&replace.pattern);
  if (literal == nullptr && !context.last) return;
  std::string text;
  if (context.last) {
    text = Replace(replace, pending);
    pending.clear();
  } else {
    size_t end = 0;  // of the last match
    ForEachMatch(replace.pattern, pending, [&](Span match) { end = match.end; });
    const size_t longest = std::min(literal->size() - 1, pending.size() - end);
    size_t held = longest;
    while (!literal->starts_with(std::string_view{pending}.substr(pending.size() - held))) --held;
    text = Replace(replace, std::string_view{pending}.substr(0, pending.size() - held));
    pending.erase(0, pending.size() - held);
  }
  Pass(context, text);
}

void Run(std::span<const DecodeStep> steps, std::span<DecodeState> states, bool fused, bool last,
         std::string_view token, std::string* out) {
  if (steps.empty()) {
    *out += token;
    return;
  }
  const Next next = [&](std::string_view text) {
    Run(steps.subspan(1), states.subspan(1), fused || Fuses(steps.front()), false, text, out);
  };
  const Context context{&states.front(), fused, last, next};
  std::visit([&](const auto& step) { Step(step, token, context); }, steps.front());
}

}  // namespace

void Decode(std::span<const DecodeStep> steps, std::span<DecodeState> states,
            std::string_view token, std::string* out) {
  Run(steps, states, false, false, token, out);
}

void FlushDecode(std::span<const DecodeStep> steps, std::span<DecodeState> states,
                 std::string* out) {
  bool fused = false;
  for (size_t i = 0; i < steps.size(); ++i) {
    Run(steps.subspan(i), states.subspan(i), fused, true, "", out);
    fused = fused || Fuses(steps[i]);
  }
}

void CheckDecodeSteps(std::span<const DecodeStep> steps) {
  bool fused = false;
  for (const DecodeStep& step : steps) {
    if (fused && (std::holds_alternative<DecodeByteLevel>(step) ||
                  std::holds_alternative<DecodeByteFallback>(step))) {
      throw std::runtime_error(
          "wanted ByteLevel or ByteFallback before the tokens are fused, got it after");
    }
    fused = fused || Fuses(step);
  }
}

std::string BytesOfToken(std::span<const DecodeStep> steps, std::string_view token) {
  std::string text(token);
  for (const DecodeStep& step : steps) {
    if (std::holds_alternative<DecodeByteLevel>(step)) {
      std::string bytes;
      return BytesOfCharacters(text, &bytes) ? bytes : text;
    }
    if (Fuses(step)) break;
    if (std::holds_alternative<DecodeByteFallback>(step)) {
      const int byte = ByteOfToken(text);
      if (byte >= 0) return std::string(1, static_cast<char>(byte));
    } else if (const auto* strip = std::get_if<StripCharacter>(&step)) {
      text = StripToken(*strip, text);
    } else if (const auto* metaspace = std::get_if<DecodeMetaspace>(&step)) {
      text = Replace({metaspace->replacement, " "}, text);
    } else if (const auto* replace = std::get_if<ReplaceAll>(&step)) {
      text = Replace(*replace, text);
    }
  }
  return text;
}

}  // namespace fla::tokenizer
