// What fla-cli can do: each command is one RPC, its result on stdout. They return the exit code and
// throw RpcError when the server refuses.
#pragma once

#include <string>

#include "client/connection.h"
#include "fla/v1/inference.pb.h"

namespace fla::client {

struct GenerateCommand {
  v1::GenerateRequest request;
  bool stream = false;
  bool json = false;   // the messages as they are, one JSON object a line
  bool stats = false;  // time to first token and tokens a second, on stderr
};

struct EmbedCommand {
  v1::EmbedRequest request;
  bool json = false;    // an object an input with all numbers, one a line
  bool binary = false;  // the numbers alone, as they came: little-endian floats, row after row
};

int Generate(const Connection& connection, const GenerateCommand& command);
int Embed(const Connection& connection, const EmbedCommand& command);
int Tokenize(const Connection& connection, const v1::TokenizeRequest& request, bool ids_only);
int Detokenize(const Connection& connection, const v1::DetokenizeRequest& request);
int ListModels(const Connection& connection);
// By name or alias; empty: the server's default model. LoadModel returns when it serves.
int LoadModel(const Connection& connection, const std::string& name);
int UnloadModel(const Connection& connection, const std::string& name);
// 0 only if the service is SERVING; an empty name means the server as a whole.
int CheckHealth(const Connection& connection, const std::string& service);
int Drain(const Connection& connection);

// No RPC: makes a random API key.
int NewKey(const std::string& name, const std::string& role);

}  // namespace fla::client
