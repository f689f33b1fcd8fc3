// fla-cli chat: a conversation, its messages kept here.
#pragma once

#include <string>

#include "client/connection.h"
#include "fla/v1/inference.pb.h"

namespace fla::client {

struct ChatCommand {
  // But for its chat's messages, which begin with the system's if there is one.
  v1::GenerateRequest request;
};

// Reads a user's message a line from standard input and streams the answers to standard output,
// until the input ends. The line /reset begins anew. Returns the exit code: 1 if a message was
// refused, which is left out of the conversation then.
int Chat(const Connection& connection, const ChatCommand& command);

// "user:Hello" as a message. Throws std::runtime_error where there is no colon.
v1::ChatMessage ParseMessage(const std::string& text);

}  // namespace fla::client
