#include "model/chat/template.h"

#include "model/chat/heap.h"
#include "model/chat/interpreter.h"
#include "model/chat/lexer.h"
#include "model/chat/syntax.h"
#include "model/tokenizer.h"

namespace fla::chat {
namespace {

constexpr size_t kMaxSourceBytes = size_t{1} << 20;

Body ParseChecked(std::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    throw SyntaxError(1, "wanted a template of at most " + std::to_string(kMaxSourceBytes) +
                             " bytes, got " + std::to_string(source.size()));
  }
  if (!IsValidUtf8(source)) throw SyntaxError(1, "wanted UTF-8, got other bytes");
  return Parse(source);
}

}  // namespace

struct Template::Tree {
  Body body;
};

Template::Template(std::string_view source)
    : tree_(std::make_unique<Tree>(Tree{ParseChecked(source)})) {}
Template::~Template() = default;

std::string Template::Render(const std::vector<std::pair<std::string, Value>>& variables,
                             const RenderLimits& limits) const {
  Heap heap(limits);
  Interpreter interpreter(heap);
  try {
    return interpreter.Render(tree_->body, variables);
  } catch (const Raised& raised) {
    throw RefusedByTemplate(raised.what());
  } catch (const Failure& failure) {
    throw RenderError("line " + std::to_string(interpreter.line()) + ": " + failure.what());
  }
}

}  // namespace fla::chat
