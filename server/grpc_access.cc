#include "server/grpc_access.h"

#include <stdexcept>
#include <string>

namespace fla {
namespace {

constexpr std::string_view kScheme = "Bearer ";

}  // namespace

GrpcAccess::GrpcAccess(const std::filesystem::path& file) : file_(file) {
  if (!file_.empty()) Reload();
}

void GrpcAccess::Reload() {
  if (file_.empty()) return;
  std::shared_ptr<const ApiKeys> keys;
  try {
    keys = std::make_shared<const ApiKeys>(ApiKeys::Load(file_));
  } catch (const std::exception& error) {
    throw std::runtime_error(std::string("api_keys: ") + error.what());
  }
  const std::lock_guard lock(mutex_);
  keys_ = std::move(keys);
}

absl::Status GrpcAccess::Check(const grpc::CallbackServerContext& rpc, Role wanted) const {
  const auto& metadata = rpc.client_metadata();
  const auto header = metadata.find("authorization");
  if (header == metadata.end()) return CheckHeader("", wanted);
  return CheckHeader({header->second.data(), header->second.size()}, wanted);
}

absl::Status GrpcAccess::CheckHeader(std::string_view authorization, Role wanted) const {
  std::shared_ptr<const ApiKeys> keys;
  {
    const std::lock_guard lock(mutex_);
    keys = keys_;
  }
  if (keys == nullptr) return absl::OkStatus();
  if (authorization.substr(0, kScheme.size()) != kScheme) {
    return absl::UnauthenticatedError("authorization: wanted \"Bearer KEY\", got none");
  }
  const ApiKey* key = keys->Find(authorization.substr(kScheme.size()));
  if (key == nullptr) {
    return absl::UnauthenticatedError("authorization: wanted a key that there is, got another");
  }
  if (wanted == Role::kAdmin && key->role != Role::kAdmin) {
    return absl::PermissionDeniedError("authorization: wanted an admin's key, got a user's");
  }
  return absl::OkStatus();
}

}  // namespace fla
