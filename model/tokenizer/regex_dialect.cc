// Oniguruma's Ruby syntax written as PCRE2's. The two share most of it; what differs: \s, \w, \d
// and \h, classes within classes and their intersections, "(?m)", quantifiers after "{n,m}" and
// the Unicode version.
#include <array>
#include <cctype>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "model/tokenizer/regex.h"
#include "model/tokenizer/unicode_versions.h"

namespace fla::tokenizer {
namespace {

constexpr std::string_view kSpace =
    R"(\t-\r\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kHexDigit = "0-9A-Fa-f";
// The letters and numbers of \w that have no category of their own.
constexpr std::string_view kOtherAlphabetic =
    R"(\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";
constexpr int kMaxDepth = 64;  // of classes within classes

constexpr std::array<std::pair<std::string_view, std::string_view>, 7> kLongCategories = {{
    {"Letter", "L"},
    {"Mark", "M"},
    {"Number", "N"},
    {"Punctuation", "P"},
    {"Symbol", "S"},
    {"Separator", "Z"},
    {"Other", "C"},
}};

// A set of characters: the inside of a class, and whether what is meant is the rest.
struct Set {
  std::string inside;
  bool negated = false;
};

std::string ClassOf(const Set& set) {
  if (set.inside.empty()) return set.negated ? "(?s:.)" : "(?!)";
  return (set.negated ? "[^" : "[") + set.inside + "]";
}

class Translator {
 public:
  Translator(std::string_view pattern, bool newest_unicode)
      : in_(pattern), newest_unicode_(newest_unicode) {}

  std::string Run() {
    while (!AtEnd()) Element();
    return std::move(out_);
  }

 private:
  bool AtEnd() const { return at_ >= in_.size(); }
  char Peek() const { return in_[at_]; }
  bool StartsWith(std::string_view text) const { return in_.substr(at_).starts_with(text); }
  char Take() {
    if (AtEnd()) throw std::runtime_error("it ends within an escape, a class or a group");
    return in_[at_++];
  }

  void Element() {
    const char c = Peek();
    if (c == '(') return OpenGroup();
    if (c == ')') {
      out_ += Take();
      if (!groups_.empty()) {
        atom_ = groups_.back();
        groups_.pop_back();
      }
      return;
    }
    if (c == '*' || c == '+' || c == '?') {
      out_ += Take();
      if (!AtEnd() && (Peek() == '?' || Peek() == '+')) out_ += Take();
      return;
    }
    if (c == '{' && Interval()) return;
    atom_ = out_.size();
    if (c == '[') {
      ++at_;
      out_ += CharacterClass(0);
    } else if (c == '\\') {
      ++at_;
      Set set;
      std::string other;
      Escape(&set, &other);
      out_ += other.empty() ? ClassOf(set) : other;
    } else {
      out_ += Take();
      while (!AtEnd() && (static_cast<uint8_t>(Peek()) & 0xC0) == 0x80) out_ += Take();
    }
  }

  // "(" with what says of which kind the group is.
  void OpenGroup() {
    groups_.push_back(out_.size());
    out_ += Take();
    if (!StartsWith("?")) return;
    out_ += Take();
    if (StartsWith("#")) {
      while (!AtEnd() && Peek() != ')') out_ += Take();
      return;
    }
    while (!AtEnd() && (std::isalpha(static_cast<uint8_t>(Peek())) || Peek() == '-')) {
      const char flag = Take();
      if (flag != 'i' && flag != 'm' && flag != 'x' && flag != '-') {
        throw std::runtime_error(std::string("group '(?") + flag + "' is not supported");
      }
      out_ += flag == 'm' ? 's' : flag;
    }
  }

  // "{n}", "{n,}", "{,m}" or "{n,m}"; false if the brace is a literal.
  bool Interval() {
    size_t end = at_ + 1;
    while (end < in_.size() && (std::isdigit(static_cast<uint8_t>(in_[end])) || in_[end] == ',')) {
      ++end;
    }
    const std::string_view bounds = in_.substr(at_ + 1, end - at_ - 1);
    if (end >= in_.size() || in_[end] != '}' || bounds.empty() || bounds == "," ||
        bounds.find(',') != bounds.rfind(',')) {
      return false;
    }
    at_ = end + 1;
    out_ += bounds[0] == ',' ? "{0" + std::string(bounds) + "}" : "{" + std::string(bounds) + "}";
    if (AtEnd()) return true;
    // Ruby: "+" after an interval repeats it, and so does "?" after "{n}".
    const bool exact = bounds.find(',') == std::string_view::npos;
    if (Peek() == '+' || (Peek() == '?' && exact)) {
      out_.insert(atom_, "(?:");
      out_ += ')';
      out_ += Take();
    } else if (Peek() == '?') {
      out_ += Take();
    }
    return true;
  }

  // What stands after a backslash: a set of characters, or `other` where it is no set.
  void Escape(Set* set, std::string* other) {
    const char c = Take();
    switch (c) {
      case 's':
      case 'S':
        *set = {std::string(kSpace), c == 'S'};
        return;
      case 'h':
      case 'H':
        *set = {std::string(kHexDigit), c == 'H'};
        return;
      case 'd':
      case 'D':
        *set = {Category("Nd"), c == 'D'};
        return;
      case 'w':
      case 'W':
        *set = {Category("L") + Category("M") + Category("Nd") + Category("Nl") + Category("Pc") +
                    std::string(kOtherAlphabetic),
                c == 'W'};
        return;
      case 'p':
      case 'P':
        *set = Property(c == 'P');
        return;
      case 'u': {
        std::string digits;
        for (int i = 0; i < 4; ++i) digits += Take();
        set->inside = "\\x{" + digits + "}";
        return;
      }
      case 'v':
        set->inside = "\\x0b";
        return;
      case 'x':
      case 'n':
      case 'r':
      case 't':
      case 'f':
      case 'a':
      case 'e':
        set->inside = CharacterEscape(c);
        return;
      default:
        break;
    }
    if (std::isalnum(static_cast<uint8_t>(c))) {
      if (std::string_view("bBAzZGKRXkg123456789").find(c) == std::string_view::npos) {
        throw std::runtime_error(std::string("escape '\\") + c + "' is not supported");
      }
      *other = std::string("\\") + c;
      return;
    }
    if (static_cast<uint8_t>(c) >= 0x80) {
      set->inside = c;
      while (!AtEnd() && (static_cast<uint8_t>(Peek()) & 0xC0) == 0x80) set->inside += Take();
      return;
    }
    set->inside = std::string("\\") + c;
  }

  std::string CharacterEscape(char c) {
    std::string text = std::string("\\") + c;
    if (c != 'x') return text;
    if (StartsWith("{")) {
      while (text.back() != '}') text += Take();
    } else {
      text += Take();
      text += Take();
    }
    return text;
  }

  // "{name}" after \p or \P.
  Set Property(bool negated) {
    std::string name;
    if (Take() != '{') throw std::runtime_error("\\p without '{'");
    for (char c = Take(); c != '}'; c = Take()) name += c;
    if (name.starts_with('^')) {
      negated = !negated;
      name.erase(0, 1);
    }
    for (const auto& [longer, category] : kLongCategories) {
      if (name == longer) name = category;
    }
    return {Category(name), negated};
  }

  std::string Category(const std::string& name) const {
    std::string inside = "\\p{" + name + "}";
    if (newest_unicode_ && name.size() <= 2) inside += unicode::AddedAfterUnicode14(name);
    return inside;
  }

  // A class after its "[", as one PCRE2 atom.
  std::string CharacterClass(int depth) {
    if (depth > kMaxDepth) throw std::runtime_error("classes nested too deep");
    const bool negated = StartsWith("^");
    if (negated) ++at_;
    std::vector<std::string> terms;  // of the intersection
    std::string inside;              // of the present term's class
    std::vector<std::string> alternatives;
    const auto end_term = [&] {
      if (!inside.empty() || alternatives.empty()) {
        alternatives.insert(alternatives.begin(), ClassOf({std::exchange(inside, {}), false}));
      }
      std::string term = alternatives[0];
      for (size_t i = 1; i < alternatives.size(); ++i) term += "|" + alternatives[i];
      terms.push_back(alternatives.size() == 1 ? term : "(?:" + term + ")");
      alternatives.clear();
    };
    for (bool first = true;; first = false) {
      if (StartsWith("]") && !first) break;
      if (StartsWith("&&")) {
        at_ += 2;
        end_term();
      } else if (StartsWith("[:") && in_.find(":]", at_) != std::string_view::npos) {
        const size_t end = in_.find(":]", at_) + 2;
        inside += in_.substr(at_, end - at_);
        at_ = end;
      } else if (StartsWith("[")) {
        ++at_;
        alternatives.push_back(CharacterClass(depth + 1));
      } else if (StartsWith("\\")) {
        ++at_;
        Set set;
        std::string other;
        Escape(&set, &other);
        if (!other.empty() && other != "\\b") {
          throw std::runtime_error("escape '" + other + "' within a class");
        }
        if (!other.empty()) {
          inside += other;
        } else if (set.negated) {
          alternatives.push_back(ClassOf(set));
        } else {
          inside += set.inside;
        }
      } else {
        const char c = Take();
        if (c == ']' || c == '^') inside += '\\';
        inside += c;
      }
    }
    ++at_;  // "]"
    if (terms.empty() && alternatives.empty()) return ClassOf({inside, negated});
    end_term();
    std::string both;
    for (size_t i = 0; i + 1 < terms.size(); ++i) both += "(?=" + terms[i] + ")";
    both += terms.back();
    return negated ? "(?:(?!" + both + ")(?s:.))" : "(?:" + both + ")";
  }

  std::string_view in_;
  bool newest_unicode_;
  size_t at_ = 0;
  std::string out_;
  size_t atom_ = 0;             // where in out_ the last atom begins
  std::vector<size_t> groups_;  // where in out_ the open groups begin
};

}  // namespace

std::string PcreFromOniguruma(std::string_view pattern, bool newest_unicode) {
  return Translator(pattern, newest_unicode).Run();
}

}  // namespace fla::tokenizer
