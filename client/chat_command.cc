#include "client/chat_command.h"

#include <unistd.h>

#include <iostream>

#include "fla/v1/inference.grpc.pb.h"

namespace fla::client {
namespace {

// Streams the answer to the conversation and returns it. Throws RpcError.
std::string Answer(v1::Inference::Stub& stub, const Connection& connection,
                   const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  connection.Apply(context);
  const auto reader = stub.GenerateStream(&context, request);
  v1::GenerateStreamResponse message;
  std::string text;
  while (reader->Read(&message)) {
    text += message.delta().text();
    std::cout << message.delta().text() << std::flush;
  }
  std::cout << std::endl;
  ThrowUnlessOk(reader->Finish());
  return text;
}

}  // namespace

v1::ChatMessage ParseMessage(const std::string& text) {
  const size_t colon = text.find(':');
  if (colon == std::string::npos) {
    throw std::runtime_error("a message: wanted role:content, got \"" + text + "\"");
  }
  v1::ChatMessage message;
  message.set_role(text.substr(0, colon));
  message.set_content(text.substr(colon + 1));
  return message;
}

int Chat(const Connection& connection, const ChatCommand& command) {
  const auto stub = v1::Inference::NewStub(connection.Open());
  const bool interactive = isatty(STDIN_FILENO) != 0;
  v1::GenerateRequest request = command.request;
  request.mutable_chat();  // also where there is no system message
  int code = 0;
  std::string line;
  while (true) {
    if (interactive) std::cerr << "> " << std::flush;
    if (!std::getline(std::cin, line)) break;
    if (line == "/reset") {
      *request.mutable_chat() = command.request.chat();
      continue;
    }
    v1::ChatMessage& question = *request.mutable_chat()->add_messages();
    question.set_role("user");
    question.set_content(line);
    try {
      const std::string text = Answer(*stub, connection, request);
      v1::ChatMessage& answer = *request.mutable_chat()->add_messages();
      answer.set_role("assistant");
      answer.set_content(text);
    } catch (const RpcError& error) {
      std::cerr << "fla-cli: " << error.what() << std::endl;
      request.mutable_chat()->mutable_messages()->RemoveLast();
      code = 1;
    }
  }
  if (interactive) std::cerr << std::endl;
  return code;
}

}  // namespace fla::client
