// Checks the API key that a call brings.
#pragma once

#include <grpcpp/grpcpp.h>

#include <filesystem>
#include <memory>
#include <mutex>

#include "absl/status/status.h"
#include "server/api_keys.h"

namespace fla {

// Without keys everybody may do everything.
//
// Thread safety: all methods may be called from any thread.
class GrpcAccess {
 public:
  GrpcAccess() = default;  // no keys
  // Throws as ApiKeys::Load, the key of the config in front.
  explicit GrpcAccess(const std::filesystem::path& file);

  // Reads the file again: keys can be added and withdrawn under way. Throws as the constructor, and
  // then leaves the keys as they were.
  void Reload();

  // UNAUTHENTICATED unless the call has the metadata "authorization: Bearer KEY" with a key that
  // there is, PERMISSION_DENIED if that is a user's where an admin's is wanted.
  absl::Status Check(const grpc::CallbackServerContext& rpc, Role wanted) const;
  absl::Status CheckHeader(std::string_view authorization, Role wanted) const;

 private:
  const std::filesystem::path file_;
  mutable std::mutex mutex_;
  std::shared_ptr<const ApiKeys> keys_;  // null: none; guarded by mutex_
};

}  // namespace fla
