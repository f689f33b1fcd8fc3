#include "client/connection.h"

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

namespace fla::client {
namespace {

// gRPC says nothing where it could not read a message; text that is no UTF-8 is why, as a rule.
std::string MessageOf(const grpc::Status& status) {
  if (status.error_code() != grpc::UNIMPLEMENTED || !status.error_message().empty()) {
    return status.error_message();
  }
  return "the server does not know the call, or could not read its message: is all text UTF-8?";
}

}  // namespace

const char* NameOf(grpc::StatusCode code) {
  static constexpr const char* kNames[] = {"OK",
                                           "CANCELLED",
                                           "UNKNOWN",
                                           "INVALID_ARGUMENT",
                                           "DEADLINE_EXCEEDED",
                                           "NOT_FOUND",
                                           "ALREADY_EXISTS",
                                           "PERMISSION_DENIED",
                                           "RESOURCE_EXHAUSTED",
                                           "FAILED_PRECONDITION",
                                           "ABORTED",
                                           "OUT_OF_RANGE",
                                           "UNIMPLEMENTED",
                                           "INTERNAL",
                                           "UNAVAILABLE",
                                           "DATA_LOSS",
                                           "UNAUTHENTICATED"};
  return code >= 0 && code < static_cast<int>(std::size(kNames)) ? kNames[code] : "?";
}

RpcError::RpcError(const grpc::Status& status)
    : std::runtime_error(std::string(NameOf(status.error_code())) + ": " + MessageOf(status)) {}

void ThrowUnlessOk(const grpc::Status& status) {
  if (!status.ok()) throw RpcError(status);
}

std::shared_ptr<grpc::Channel> Connection::Open() const {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);  // log-probabilities of a long prompt are large
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  if (!tls) {
    return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  }
  grpc::SslCredentialsOptions files;
  if (!ca_file.empty()) files.pem_root_certs = ReadFile(ca_file);
  if (!certificate_file.empty()) files.pem_cert_chain = ReadFile(certificate_file);
  if (!key_file.empty()) files.pem_private_key = ReadFile(key_file);
  return grpc::CreateCustomChannel(address, grpc::SslCredentials(files), arguments);
}

void Connection::Apply(grpc::ClientContext& context) const {
  if (!api_key.empty()) context.AddMetadata("authorization", "Bearer " + api_key);
  if (!timeout_seconds) return;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::duration_cast<std::chrono::system_clock::duration>(
                           std::chrono::duration<double>(*timeout_seconds)));
}

std::string ReadFile(const std::string& name) {
  if (name == "-") {
    return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
  }
  std::ifstream stream(name, std::ios::binary);
  if (!stream || std::filesystem::is_directory(name)) {
    throw std::runtime_error(name + ": cannot be read");
  }
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

}  // namespace fla::client
