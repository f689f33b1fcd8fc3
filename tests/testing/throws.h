// Expecting an error whose text names what is wrong.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <exception>
#include <string>

namespace fla::testing {

// What `action` throws, or a note that it did not.
template <typename Action>
std::string ErrorOf(Action action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "(no error)";
}

}  // namespace fla::testing
