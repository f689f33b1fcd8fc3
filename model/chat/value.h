// The values of chat templates: what Jinja, and so Python, has of them. Immutable but for
// namespaces and iterators; copying one is cheap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace fla::chat {

class Meter;
struct Callable;
struct Dict;
struct Iterator;
struct LoopState;
struct Namespace;
struct Sequence;
struct Statement;
struct Text;
class Scope;

// Why a rendering cannot go on; the interpreter knows the line.
class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The template itself refuses its messages (raise_exception).
class Raised : public Failure {
 public:
  using Failure::Failure;
};

struct Undefined {
  std::shared_ptr<const std::string> name;  // null where it has none
};
struct None {};

class Value {
 public:
  using Storage = std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const Text>,
                               std::shared_ptr<const Sequence>, std::shared_ptr<const Dict>,
                               Namespace*, std::shared_ptr<Iterator>, std::shared_ptr<LoopState>,
                               std::shared_ptr<const Callable>>;

  Value() = default;  // undefined
  explicit Value(Storage value) : storage_(std::move(value)) {}

  template <typename T>
  const T* If() const {
    return std::get_if<T>(&storage_);
  }
  const Text* text() const { return Pointer<std::shared_ptr<const Text>>(); }
  const Sequence* sequence() const { return Pointer<std::shared_ptr<const Sequence>>(); }
  const Dict* dict() const { return Pointer<std::shared_ptr<const Dict>>(); }
  Namespace* name_space() const {
    const auto* held = If<Namespace*>();
    return held == nullptr ? nullptr : *held;
  }
  Iterator* iterator() const { return Pointer<std::shared_ptr<Iterator>>(); }
  LoopState* loop() const { return Pointer<std::shared_ptr<LoopState>>(); }
  const Callable* callable() const { return Pointer<std::shared_ptr<const Callable>>(); }
  bool is_undefined() const { return If<Undefined>() != nullptr; }
  bool is_none() const { return If<None>() != nullptr; }
  // An int or a bool, which Python counts as one.
  bool is_integral() const { return If<int64_t>() != nullptr || If<bool>() != nullptr; }
  bool is_number() const { return is_integral() || If<double>() != nullptr; }
  int64_t integer() const { return If<bool>() ? *If<bool>() : std::get<int64_t>(storage_); }
  double number() const { return If<double>() ? *If<double>() : static_cast<double>(integer()); }

  // How deep values are nested in it: bounds every recursion over values.
  int depth() const;
  // What Python calls its type: "str", "dict".
  const char* type_name() const;

 private:
  template <typename T>
  auto Pointer() const -> decltype(std::declval<T>().get()) {
    const T* held = std::get_if<T>(&storage_);
    return held == nullptr ? nullptr : held->get();
  }

  Storage storage_;
};

// Counts the bytes of one rendering's values while they live. Without a meter (a template's own
// constants, a request's messages) it counts nothing.
class Metered {
 public:
  Metered(Meter* meter, size_t bytes);
  ~Metered();
  Metered(const Metered&) = delete;
  Metered& operator=(const Metered&) = delete;

 private:
  Meter* meter_;
  size_t bytes_;
};

struct Text : Metered {
  Text(Meter* meter, std::string text, bool is_safe)
      : Metered(meter, text.size() + 64), bytes(std::move(text)), safe(is_safe) {}
  const std::string bytes;  // UTF-8
  const bool safe;          // Jinja's Markup: `+` escapes what it is added to
};

// A list, a tuple, or what a dict's keys(), values() and items() give.
struct Sequence : Metered {
  enum class Flavor { kList, kTuple, kView };
  Sequence(Meter* meter, Flavor kind, std::vector<Value> values);  // throws Failure: see kMaxDepth
  const Flavor flavor;
  const std::vector<Value> items;
  const int depth;
};

// In the order in which the keys came. A key is text or a number.
struct Dict : Metered {
  using Entries = std::vector<std::pair<Value, Value>>;
  Dict(Meter* meter, Entries pairs);  // of equal keys the last one's value counts
  const Value* Find(const Value& key) const;
  const Value* Find(const std::string& key) const;
  Entries entries;
  int depth;

 private:
  size_t PlaceOf(const Value& key) const;          // entries.size() where it is not there
  std::unordered_map<std::string, size_t> index_;  // of the keys that are text
};

// What namespace() makes: attributes that a template may set. Lives as long as the rendering.
struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;
  const Value* Find(const std::string& name) const;
  void Set(const std::string& name, Value value);
};

// What map(), select() and the like give: is true, has no length and can be gone through once.
struct Iterator {
  std::shared_ptr<const Sequence> items;
  size_t next = 0;
};

// A function, a macro or a method bound to its value.
struct Callable {
  std::string name;
  Value self;                        // of a method, else undefined
  const Statement* macro = nullptr;  // kMacro or kCall; of a macro, with where it was defined:
  Scope* scope = nullptr;
  bool is_method = false;
  int depth = 0;
};

// Deeper nesting of values is refused.
inline constexpr int kMaxValueDepth = 100;

Value UndefinedNamed(const std::string& name);
// A value outside of any rendering.
Value MakeText(std::string bytes);
Value MakeList(std::vector<Value> items);
Value MakeDict(Dict::Entries entries);

// Throws Failure "'x' is undefined".
[[noreturn]] void FailUndefined(const Value& value);

bool IsTrue(const Value& value);
// Python's ==. Its steps are counted, since values may share parts.
bool Equal(const Value& a, const Value& b, Meter& meter);
// Python's <. Throws Failure where there is no order.
bool Less(const Value& a, const Value& b, Meter& meter);

}  // namespace fla::chat
