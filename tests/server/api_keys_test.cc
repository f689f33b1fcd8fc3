#include "server/api_keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "server/grpc_access.h"
#include "tests/testing/temporary_folder.h"

namespace fla {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// printf %s KEY | sha256sum
constexpr char kAlice[] =
    "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90";  // alice
constexpr char kBob[] = "81B637D8FCD2C6DA6359E6963113A1170DE795E4B725B84D1E0B4CFD9EC58CE9";  // bob

std::string Line(const std::string& name, const std::string& role, const std::string& hash) {
  return name + " " + role + " " + hash + "\n";
}

TEST(ApiKeysTest, FindsKeysByTheirHash) {
  const ApiKeys keys = ApiKeys::Parse(
      "# who may what\n\n" + Line("a", "user", kAlice) + "  " + Line("b\t", "admin", kBob), "keys");
  ASSERT_NE(keys.Find("alice"), nullptr);
  EXPECT_EQ(keys.Find("alice")->name, "a");
  EXPECT_EQ(keys.Find("alice")->role, Role::kUser);
  ASSERT_NE(keys.Find("bob"), nullptr);
  EXPECT_EQ(keys.Find("bob")->role, Role::kAdmin);
  for (const char* other : {"", "alic", "alice ", "Alice", kAlice}) {
    EXPECT_EQ(keys.Find(other), nullptr) << other;
  }
}

std::string ErrorOf(const std::string& text) {
  try {
    ApiKeys::Parse(text, "keys");
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "no error";
}

TEST(ApiKeysTest, SaysWhichLineIsWrongAndNotWhatItSays) {
  const std::string good = Line("a", "user", kAlice);
  EXPECT_THAT(ErrorOf(""), HasSubstr("keys: the file: wanted at least one key"));
  EXPECT_THAT(ErrorOf("# none\n"), HasSubstr("wanted at least one key"));
  for (const std::string& bad :
       {std::string("b\n"), Line("b", "root", kBob), Line("b", "user", "12"),
        Line("b", "user", std::string(64, 'g')), "b user " + std::string(kBob) + " more\n"}) {
    EXPECT_THAT(ErrorOf(good + bad), AllOf(HasSubstr("keys:2: the line: wanted"),
                                           Not(HasSubstr("ggg")), Not(HasSubstr("81B6"))));
  }
  EXPECT_THAT(ErrorOf(good + Line("a", "user", kBob)), HasSubstr("keys:2: the name"));
  EXPECT_THAT(ErrorOf(good + Line("b", "admin", kAlice)), HasSubstr("keys:2: the key"));
}

TEST(GrpcAccessTest, AsksForAKeyAndForTheRole) {
  EXPECT_TRUE(GrpcAccess().CheckHeader("", Role::kAdmin).ok());
  const testing::TemporaryFolder folder;
  const auto file = folder.path() / "keys";
  folder.Write("keys", Line("a", "user", kAlice));
  GrpcAccess access(file);
  const auto code = [&](const char* header, Role role) {
    return access.CheckHeader(header, role).code();
  };
  EXPECT_EQ(code("Bearer alice", Role::kUser), absl::StatusCode::kOk);
  EXPECT_EQ(code("Bearer alice", Role::kAdmin), absl::StatusCode::kPermissionDenied);
  for (const char* wrong : {"", "alice", "bearer alice", "Bearer bob", "Bearer ", "Basic alice"}) {
    EXPECT_EQ(code(wrong, Role::kUser), absl::StatusCode::kUnauthenticated) << wrong;
  }
  // Keys come and go under way; a broken file changes nothing.
  folder.Write("keys", "nonsense");
  EXPECT_THROW(access.Reload(), std::runtime_error);
  EXPECT_EQ(code("Bearer alice", Role::kUser), absl::StatusCode::kOk);
  folder.Write("keys", Line("b", "admin", kBob));
  access.Reload();
  EXPECT_EQ(code("Bearer alice", Role::kUser), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(code("Bearer bob", Role::kAdmin), absl::StatusCode::kOk);
}

}  // namespace
}  // namespace fla
