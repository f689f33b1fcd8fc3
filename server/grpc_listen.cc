#include "server/grpc_listen.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <netdb.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "grpc/health/v1/health.pb.h"

namespace fla {
namespace {

constexpr unsigned kCertificateRefreshSeconds = 10;
// What gRPC would take by itself, said aloud: metadata of a call beyond it are refused.
constexpr int kMaxMetadataBytes = 8192;

template <typename T, void (*kFree)(T*)>
struct Freed {
  void operator()(T* object) const { kFree(object); }
};
using Certificate = std::unique_ptr<X509, Freed<X509, X509_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY, EVP_PKEY_free>>;

// Reads the PEM object of a key of the config with one of OpenSSL's PEM_read_ functions.
template <typename Owner, typename Read>
Owner ReadPem(const char* key, const std::filesystem::path& path, const char* what, Read read) {
  const std::string at = std::string(key) + ": " + path.string();
  FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) {
    throw std::runtime_error(at + ": wanted a readable file, got: " + std::strerror(errno));
  }
  // No password is asked for on a terminal.
  Owner object(read(
      file, nullptr, [](char*, int, int, void*) { return -1; }, nullptr));
  std::fclose(file);
  if (object == nullptr) {
    throw std::runtime_error(at + ": wanted " + what + " in PEM, got none");
  }
  return object;
}

std::shared_ptr<grpc::ServerCredentials> CredentialsOf(const TlsOptions& tls) {
  if (tls.certificate.empty()) return grpc::InsecureServerCredentials();
  CheckTls(tls);
  namespace experimental = grpc::experimental;
  const auto provider = std::make_shared<experimental::FileWatcherCertificateProvider>(
      tls.private_key.string(), tls.certificate.string(), tls.client_ca.string(),
      kCertificateRefreshSeconds);
  experimental::TlsServerCredentialsOptions options(provider);
  options.watch_identity_key_cert_pairs();
  if (!tls.client_ca.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return experimental::TlsServerCredentials(options);
}

void SetConnections(const ServerOptions& options, grpc::ServerBuilder& builder) {
  const ConnectionOptions& connections = options.connections;
  const auto set = [&builder](const char* name, double seconds) {
    builder.AddChannelArgument(name, static_cast<int>(seconds * 1000));
  };
  // A client whose machine vanished without a word is noticed, and its slots freed.
  set(GRPC_ARG_KEEPALIVE_TIME_MS, connections.keepalive);
  set(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, connections.keepalive_timeout);
  set(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, connections.min_ping_interval);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  if (connections.max_idle > 0) set(GRPC_ARG_MAX_CONNECTION_IDLE_MS, connections.max_idle);
  if (connections.max_age > 0) set(GRPC_ARG_MAX_CONNECTION_AGE_MS, connections.max_age);
  if (connections.max_age_grace > 0) {
    set(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, connections.max_age_grace);
  }
  // A second server on the same port is an error, not a partner.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  // Beyond max_concurrent_streams a call is refused, with a reason. A connection may have a few
  // more than that, so that it is; beyond them the client's library makes calls wait.
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS,
                             options.limits.max_concurrent_streams + 100);
}

// gRPC would take a socket's path away from a server that listens there.
void RequireNobodyAt(const std::string& address) {
  const std::string path = address.substr(5);  // after "unix:"
  sockaddr_un at = {};
  if (path.size() >= sizeof at.sun_path) return;  // gRPC refuses it
  at.sun_family = AF_UNIX;
  path.copy(at.sun_path, path.size());
  const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const bool answers =
      probe >= 0 && (connect(probe, reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0 ||
                     errno == EAGAIN);  // its backlog is full
  if (probe >= 0) close(probe);
  if (answers) {
    throw std::runtime_error("listen: cannot listen on " + address + ": another server does");
  }
}

// What getaddrinfo finds for host:port.
using Addresses = std::unique_ptr<addrinfo, Freed<addrinfo, freeaddrinfo>>;
Addresses AddressesOf(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return nullptr;
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  addrinfo hints = {};
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const std::string port = address.substr(colon + 1);
  if (getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) return nullptr;
  return Addresses(found);
}

// Takes each address of host:port, as a server would, and lets it go again. One that cannot be
// read as host and port gRPC is left to refuse.
void RequireFree(const std::string& address) {
  const Addresses addresses = AddressesOf(address);
  for (const addrinfo* at = addresses.get(); at != nullptr; at = at->ai_next) {
    const int probe = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (probe < 0) continue;  // a kernel without IPv6, say
    const int on = 1;
    setsockopt(probe, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);  // closed connections may linger
    const int error = bind(probe, at->ai_addr, at->ai_addrlen) == 0 ? 0 : errno;
    close(probe);
    // Others, as of a localhost that is no IPv6 address here, need not keep gRPC from listening.
    if (error == EADDRINUSE || error == EACCES) {
      throw std::runtime_error("listen: cannot listen on " + address + ": " + std::strerror(error));
    }
  }
}

bool IsLocal(const std::string& address) {
  for (const char* local : {"unix:", "localhost:", "127.", "[::1]:"}) {
    if (address.rfind(local, 0) == 0) return true;
  }
  return false;
}

}  // namespace

void CheckTls(const TlsOptions& tls) {
  if (tls.certificate.empty()) return;
  const auto certificate =
      ReadPem<Certificate>("tls.certificate", tls.certificate, "a certificate", PEM_read_X509);
  const auto key =
      ReadPem<PrivateKey>("tls.private_key", tls.private_key, "a private key", PEM_read_PrivateKey);
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    throw std::runtime_error("tls.private_key: " + tls.private_key.string() + ": wanted that of " +
                             tls.certificate.string() + ", got another");
  }
  if (!tls.client_ca.empty()) {
    ReadPem<Certificate>("tls.client_ca", tls.client_ca, "a certificate", PEM_read_X509);
  }
}

void CheckListen(const std::string& address) {
  if (address.rfind("unix:", 0) == 0) {
    RequireNobodyAt(address);
  } else {
    RequireFree(address);
  }
}

Listening Listen(const ServerOptions& options, const std::vector<grpc::Service*>& services) {
  CheckListen(options.listen);
  grpc::EnableDefaultHealthCheckService(true);
  grpc::health::v1::HealthCheckRequest::descriptor();  // linked in, for reflection
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  Listening result;
  builder.AddListeningPort(options.listen, CredentialsOf(options.tls), &result.port);
  SetConnections(options, builder);
  builder.SetMaxReceiveMessageSize(options.limits.max_message_bytes);
  builder.SetMaxSendMessageSize(-1);
  for (grpc::Service* service : services) builder.RegisterService(service);
  result.server = builder.BuildAndStart();
  if (result.server == nullptr || result.port == 0) {
    throw std::runtime_error("listen: cannot listen on " + options.listen);
  }
  result.address = options.listen;
  if (options.listen.rfind("unix:", 0) != 0) {
    result.address =
        options.listen.substr(0, options.listen.rfind(':') + 1) + std::to_string(result.port);
  }
  if (options.tls.certificate.empty() && !IsLocal(options.listen)) {
    spdlog::warn("{}: reachable from other machines without TLS{}", result.address,
                 options.api_keys.empty() ? " and without API keys" : "; API keys travel in clear");
  }
  return result;
}

}  // namespace fla
