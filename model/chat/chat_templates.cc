#include "model/chat/chat_templates.h"

#include <algorithm>
#include <fstream>
#include <iterator>

#include "model/chat/lexer.h"
#include "model/chat/text.h"
#include "model/tokenizer.h"
#include "model/tokenizer/json_fields.h"

namespace fla::chat {
namespace {

using tokenizer::Fields;
using tokenizer::Json;

constexpr uintmax_t kMaxFileBytes = uintmax_t{1} << 20;
constexpr size_t kMaxTemplates = 32;
constexpr char kDefault[] = "default";
constexpr char kToolUse[] = "tool_use";

std::string ReadText(const std::filesystem::path& file) {
  std::error_code error;
  const uintmax_t bytes = std::filesystem::file_size(file, error);
  if (error) throw std::runtime_error(file.string() + ": cannot be read: " + error.message());
  if (bytes > kMaxFileBytes) {
    throw std::runtime_error(file.string() + ": size: wanted at most " +
                             std::to_string(kMaxFileBytes) + " bytes, got " +
                             std::to_string(bytes));
  }
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

// The tokens that templates know by name.
void ReadSpecialTokens(const std::filesystem::path& file, std::map<std::string, std::string>& all) {
  if (!std::filesystem::exists(file)) return;
  const Json json = tokenizer::ReadJsonFile(file);
  const Fields fields(json, file.string());
  for (const char* name : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
                           "cls_token", "mask_token"}) {
    const Json* value = fields.Find(name);
    if (value == nullptr) continue;
    const Json* content =
        value->is_object() && value->contains("content") ? &value->at("content") : value;
    if (content->is_string()) all.emplace(name, content->get<std::string>());
  }
}

Value ValueOf(const ToolCall& call) {
  Dict::Entries function = {{MakeText("name"), MakeText(call.name)},
                            {MakeText("arguments"), call.arguments}};
  Dict::Entries entries;
  if (!call.id.empty()) entries.emplace_back(MakeText("id"), MakeText(call.id));
  entries.emplace_back(MakeText("type"), MakeText("function"));
  entries.emplace_back(MakeText("function"), MakeDict(std::move(function)));
  return MakeDict(std::move(entries));
}

Value ValueOf(const Message& message) {
  Dict::Entries entries;
  const auto add = [&](const char* key, const std::optional<std::string>& text) {
    if (text) entries.emplace_back(MakeText(key), MakeText(*text));
  };
  // As transformers: what an older template calls `thinking`.
  add("thinking", message.reasoning_content);
  add("role", message.role);
  add("content", message.content);
  add("name", message.name);
  add("reasoning_content", message.reasoning_content);
  add("tool_call_id", message.tool_call_id);
  if (!message.tool_calls.empty()) {
    std::vector<Value> calls;
    for (const ToolCall& call : message.tool_calls) calls.push_back(ValueOf(call));
    entries.emplace_back(MakeText("tool_calls"), MakeList(std::move(calls)));
  }
  if (const Dict* extra = message.extra.dict()) {
    for (const auto& entry : extra->entries) {
      if (!entry.second.is_none()) entries.push_back(entry);
    }
  }
  return MakeDict(std::move(entries));
}

// Marks where the last message's content ends; transformers' word.
constexpr char kContinueTag[] = "CONTINUE_FINAL_MESSAGE_TAG ";
constexpr char kContinueWord[] = "CONTINUE_FINAL_MESSAGE_TAG";

std::string CutAtTag(std::string text, const std::string& final_content) {
  const size_t at = text.rfind(kContinueWord);
  const std::string_view wanted = Strip(final_content, std::nullopt);
  if (at == std::string::npos || Find(text, wanted) == std::string::npos) {
    throw ChatError(
        "continue_final_message: the template does not print the last message's "
        "content as it is");
  }
  const bool keeps_spacing = text.compare(at, sizeof(kContinueTag) - 1, kContinueTag) == 0;
  text.resize(at);
  if (keeps_spacing) return text;
  return std::string(Strip(text, std::nullopt, {false, true}));
}

}  // namespace

std::unique_ptr<ChatTemplates> ChatTemplates::Load(const std::filesystem::path& folder) {
  auto loaded = std::make_unique<ChatTemplates>();
  loaded->ReadFiles(folder);
  std::map<std::string, std::string> tokens;
  ReadSpecialTokens(folder / "tokenizer_config.json", tokens);
  ReadSpecialTokens(folder / "special_tokens_map.json", tokens);
  for (auto& [name, text] : tokens) {
    loaded->special_tokens_.emplace_back(name, MakeText(std::move(text)));
  }
  return loaded;
}

void ChatTemplates::ReadFiles(const std::filesystem::path& folder) {
  const std::filesystem::path jinja = folder / "chat_template.jinja";
  const std::filesystem::path more = folder / "additional_chat_templates";
  if (std::filesystem::exists(jinja)) Add(kDefault, jinja.string(), ReadText(jinja));
  if (std::filesystem::is_directory(more)) {
    for (const auto& entry : std::filesystem::directory_iterator(more)) {
      if (entry.path().extension() != ".jinja") continue;
      Add(entry.path().stem().string(), entry.path().string(), ReadText(entry.path()));
    }
  }
  for (const char* name : {"tokenizer_config.json", "chat_template.json"}) {
    const std::filesystem::path file = folder / name;
    if (!templates_.empty() || !std::filesystem::exists(file)) continue;
    const Json json = tokenizer::ReadJsonFile(file);
    const Fields fields(json, file.string());
    const Json* found = fields.Find("chat_template");
    if (found == nullptr) continue;
    if (found->is_string()) {
      Add(kDefault, file.string(), found->get<std::string>());
      continue;
    }
    for (const Json& entry : fields.Array("chat_template")) {
      const Fields named(entry, file.string() + ": chat_template");
      Add(named.String("name"), file.string(), named.String("template"));
    }
  }
}

void ChatTemplates::Add(const std::string& name, const std::string& file,
                        const std::string& source) {
  if (templates_.size() == kMaxTemplates) {
    throw std::runtime_error(file + ": chat_template: wanted at most " +
                             std::to_string(kMaxTemplates) + " templates, got more");
  }
  Entry entry;
  entry.file = file;
  try {
    entry.usable = std::make_unique<const Template>(source);
  } catch (const SyntaxError& error) {
    entry.problem = error.what();
  }
  templates_[name] = std::move(entry);
}

std::map<std::string, std::string> ChatTemplates::files() const {
  std::map<std::string, std::string> files;
  for (const auto& [name, entry] : templates_) files.emplace(name, entry.file);
  return files;
}

std::string ChatTemplates::problem() const {
  std::string all;
  for (const auto& [name, entry] : templates_) {
    if (entry.usable != nullptr) continue;
    all.append(all.empty() ? "" : "; ").append(entry.file).append(": chat_template");
    if (name != kDefault) all.append(" '").append(name).append("'");
    all.append(": ").append(entry.problem);
  }
  return all;
}

const Template& ChatTemplates::Choose(const Conversation& conversation) const {
  if (templates_.empty()) throw ChatError("the model has no chat template");
  std::string name = conversation.template_name;
  if (name.empty()) {
    const bool tools = !conversation.tools.is_undefined() && templates_.count(kToolUse) > 0;
    name = tools ? kToolUse : kDefault;
  }
  const auto it = templates_.find(name);
  if (it == templates_.end()) {
    std::string known;
    for (const auto& [other, _] : templates_) known += (known.empty() ? "" : ", ") + other;
    throw ChatError("template_name: wanted one of " + known + ", got '" + name + "'");
  }
  if (it->second.usable == nullptr) {
    throw ChatError("the model's chat template cannot be used: " + it->second.problem);
  }
  return *it->second.usable;
}

std::string ChatTemplates::Render(const Conversation& conversation,
                                  const RenderLimits& limits) const {
  const Template& chosen = Choose(conversation);
  std::vector<Value> messages;
  for (size_t i = 0; i < conversation.messages.size(); ++i) {
    Message message = conversation.messages[i];
    if (conversation.continue_final_message && i + 1 == conversation.messages.size()) {
      if (!message.content)
        throw ChatError("continue_final_message: the last message has no content");
      *message.content += kContinueTag;
    }
    messages.push_back(ValueOf(message));
  }
  std::vector<std::pair<std::string, Value>> variables = special_tokens_;
  const auto set = [&](const std::string& name, Value value) {
    const auto it = std::find_if(variables.begin(), variables.end(),
                                 [&](const auto& entry) { return entry.first == name; });
    if (it != variables.end()) variables.erase(it);
    variables.emplace_back(name, std::move(value));
  };
  if (const Dict* arguments = conversation.arguments.dict()) {
    for (const auto& [name, value] : arguments->entries) set(name.text()->bytes, value);
  }
  set("messages", MakeList(std::move(messages)));
  set("tools", conversation.tools.is_undefined() ? Value(None{}) : conversation.tools);
  set("documents", Value(None{}));
  set("add_generation_prompt", Value(conversation.add_generation_prompt));
  try {
    std::string text = chosen.Render(variables, limits);
    if (!conversation.continue_final_message) return text;
    return CutAtTag(std::move(text), *conversation.messages.back().content);
  } catch (const RefusedByTemplate& refused) {
    throw ChatError(std::string("the model's chat template refuses: ") + refused.what());
  } catch (const RenderError& error) {
    throw ChatError(std::string("the model's chat template: ") + error.what());
  }
}

}  // namespace fla::chat
