// A chat template in Jinja, as checkpoints bring them: the part of the language that such templates
// use, with bounds on what a rendering takes. docs/models.md lists that part.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/chat/meter.h"
#include "model/chat/value.h"

namespace fla::chat {

// A rendering that failed: "line 3: 'x' is undefined".
class RenderError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The template's own refusal of its messages, in its words.
class RefusedByTemplate : public RenderError {
 public:
  using RenderError::RenderError;
};

// Thread safety: immutable.
class Template {
 public:
  // Throws SyntaxError (lexer.h) "line 3: ..." for what is no Jinja, or Jinja that is not
  // supported.
  explicit Template(std::string_view source);
  ~Template();

  // All texts in `variables` must be valid UTF-8. Throws RenderError.
  std::string Render(const std::vector<std::pair<std::string, Value>>& variables,
                     const RenderLimits& limits = {}) const;

 private:
  struct Tree;
  std::unique_ptr<const Tree> tree_;
};

}  // namespace fla::chat
