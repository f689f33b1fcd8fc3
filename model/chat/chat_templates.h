// From a conversation to the text that a checkpoint wants for it: its chat templates.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "model/chat/meter.h"
#include "model/chat/template.h"
#include "model/chat/value.h"

namespace fla::chat {

struct ToolCall {
  std::string id;  // empty: none
  std::string name;
  Value arguments;  // a dict
};

// What is unset or empty the template does not see.
struct Message {
  std::string role;
  std::optional<std::string> content;
  std::optional<std::string> name;
  std::optional<std::string> reasoning_content;
  std::vector<ToolCall> tool_calls;
  std::optional<std::string> tool_call_id;
  Value extra;  // a dict of further keys, or undefined
};

struct Conversation {
  std::vector<Message> messages;
  Value tools;      // a list, or undefined
  Value arguments;  // a dict of further variables, or undefined
  bool add_generation_prompt = true;
  bool continue_final_message = false;  // the text ends within the last message
  std::string template_name;            // empty: tool_use where there are tools, else default
};

// A conversation that cannot be rendered: there is no template for it, or it fails.
class ChatError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The templates of a checkpoint folder, as transformers finds them: chat_template.jinja and
// additional_chat_templates/*.jinja, else `chat_template` of tokenizer_config.json, else that of
// chat_template.json.
//
// Thread safety: immutable.
class ChatTemplates {
 public:
  // A template that cannot be used is no error here: see problem(). Throws std::runtime_error
  // "file: what: wanted, got" for a malformed file.
  static std::unique_ptr<ChatTemplates> Load(const std::filesystem::path& folder);

  bool empty() const { return templates_.empty(); }
  // The templates' names and the files that they are from.
  std::map<std::string, std::string> files() const;
  // What is wrong with templates that are there, for the log; empty: nothing.
  std::string problem() const;

  // Throws ChatError. All texts must be valid UTF-8.
  std::string Render(const Conversation& conversation, const RenderLimits& limits = {}) const;

 private:
  struct Entry {
    std::string file;
    std::unique_ptr<const Template> usable;  // null: see problem
    std::string problem;
  };

  void Add(const std::string& name, const std::string& file, const std::string& source);
  void ReadFiles(const std::filesystem::path& folder);
  const Template& Choose(const Conversation& conversation) const;

  std::map<std::string, Entry> templates_;                     // by name
  std::vector<std::pair<std::string, Value>> special_tokens_;  // bos_token and the like
};

}  // namespace fla::chat
