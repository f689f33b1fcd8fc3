#include "server/chat_prompt.h"

#include <algorithm>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "model/chat/json.h"
#include "server/field_checks.h"

namespace fla {
namespace {

// A field that holds JSON: the value, or undefined where the field is empty.
absl::StatusOr<chat::Value> JsonIn(const std::string& field, const std::string& text,
                                   bool wants_object) {
  if (text.empty()) return chat::Value();
  const char* wanted = wants_object ? "a JSON object" : "a JSON array";
  try {
    chat::Value value = chat::ParseJsonValue(text);
    const bool fits = wants_object ? value.dict() != nullptr : value.sequence() != nullptr;
    if (!fits) return Invalid(field, wanted, value.type_name());
    return value;
  } catch (const std::invalid_argument& error) {
    return Invalid(field, wanted, error.what());
  } catch (const chat::Failure& failure) {
    return Invalid(field, wanted, failure.what());
  }
}

absl::Status Read(const std::string& field, bool is_set, const std::string& text,
                  std::optional<std::string>& target) {
  if (!is_set) return absl::OkStatus();
  target = text;
  return CheckUtf8(field, text);
}

absl::StatusOr<chat::Message> MessageOf(const std::string& field, const v1::ChatMessage& message) {
  chat::Message made;
  absl::Status status = CheckUtf8(field + ".role", message.role());
  made.role = message.role();
  status.Update(Read(field + ".content", message.has_content(), message.content(), made.content));
  status.Update(Read(field + ".name", message.has_name(), message.name(), made.name));
  status.Update(Read(field + ".reasoning_content", message.has_reasoning_content(),
                     message.reasoning_content(), made.reasoning_content));
  status.Update(Read(field + ".tool_call_id", message.has_tool_call_id(), message.tool_call_id(),
                     made.tool_call_id));
  if (!status.ok()) return status;
  for (int i = 0; i < message.tool_calls_size(); ++i) {
    const v1::ToolCall& call = message.tool_calls(i);
    const std::string name = absl::StrCat(field, ".tool_calls[", i, "]");
    status.Update(CheckUtf8(name + ".id", call.id()));
    status.Update(CheckUtf8(name + ".name", call.name()));
    if (!status.ok()) return status;
    absl::StatusOr<chat::Value> arguments =
        JsonIn(name + ".arguments", call.arguments().empty() ? "{}" : call.arguments(), true);
    if (!arguments.ok()) return arguments.status();
    made.tool_calls.push_back({call.id(), call.name(), *std::move(arguments)});
  }
  absl::StatusOr<chat::Value> extra = JsonIn(field + ".extra", message.extra(), true);
  if (!extra.ok()) return extra.status();
  made.extra = *std::move(extra);
  return made;
}

absl::StatusOr<chat::Conversation> ConversationOf(const v1::Chat& message, const Limits& limits) {
  if (message.messages_size() < 1 || message.messages_size() > limits.max_chat_messages) {
    return Invalid("chat.messages", absl::StrCat("1 to ", limits.max_chat_messages, " entries"),
                   absl::StrCat(message.messages_size()));
  }
  chat::Conversation conversation;
  conversation.continue_final_message = message.continue_final_message();
  conversation.add_generation_prompt = message.has_add_generation_prompt()
                                           ? message.add_generation_prompt()
                                           : !message.continue_final_message();
  if (conversation.continue_final_message && conversation.add_generation_prompt) {
    return Invalid("chat.add_generation_prompt", "false beside continue_final_message", "true");
  }
  for (int i = 0; i < message.messages_size(); ++i) {
    absl::StatusOr<chat::Message> made =
        MessageOf(absl::StrCat("chat.messages[", i, "]"), message.messages(i));
    if (!made.ok()) return made.status();
    conversation.messages.push_back(*std::move(made));
  }
  absl::StatusOr<chat::Value> tools = JsonIn("chat.tools", message.tools(), false);
  if (!tools.ok()) return tools.status();
  conversation.tools = *std::move(tools);
  absl::StatusOr<chat::Value> arguments =
      JsonIn("chat.template_arguments", message.template_arguments(), true);
  if (!arguments.ok()) return arguments.status();
  conversation.arguments = *std::move(arguments);
  if (absl::Status status = CheckUtf8("chat.template_name", message.template_name());
      !status.ok()) {
    return status;
  }
  conversation.template_name = message.template_name();
  return conversation;
}

}  // namespace

absl::StatusOr<std::vector<int>> PromptOfChat(const v1::Chat& message,
                                              const RequestContext& context) {
  const Limits& limits = context.limits;
  absl::StatusOr<chat::Conversation> conversation = ConversationOf(message, limits);
  if (!conversation.ok()) return conversation.status();
  if (context.chat == nullptr) {
    return Invalid("chat", "a model with a chat template", "one without");
  }
  chat::RenderLimits bounds;
  bounds.max_output_bytes = static_cast<size_t>(limits.max_chat_bytes);
  bounds.max_memory_bytes = std::max(bounds.max_memory_bytes, 16 * bounds.max_output_bytes);
  std::string text;
  try {
    text = context.chat->Render(*conversation, bounds);
  } catch (const chat::ChatError& error) {
    return Invalid("chat", "a conversation that the model's template takes", error.what());
  } catch (const chat::Failure& failure) {  // values of the request nested too deep
    return Invalid("chat", "a conversation that the model's template takes", failure.what());
  }
  // What the template wants in front of the text it has written itself.
  return PromptOfText("chat", text, context, false);
}

}  // namespace fla
