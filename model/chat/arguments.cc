#include <algorithm>
#include <cstring>

#include "model/chat/builtins.h"

namespace fla::chat {

BoundArguments::BoundArguments(const char* function, const Arguments& arguments,
                               std::initializer_list<const char*> parameters)
    : function_(function), parameters_(parameters), values_(parameters.size(), nullptr) {
  if (arguments.positional.size() > values_.size()) {
    throw Failure(std::string(function) + ": wanted at most " + std::to_string(values_.size()) +
                  " arguments, got " + std::to_string(arguments.positional.size()));
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto it =
        std::find_if(parameters_.begin(), parameters_.end(),
                     [&, wanted = &name](const char* known) { return *wanted == known; });
    if (it == parameters_.end()) {
      throw Failure(std::string(function) + ": the argument '" + name + "' is not supported");
    }
    values_[static_cast<size_t>(it - parameters_.begin())] = &value;
  }
}

const Value& BoundArguments::Required(size_t parameter) const {
  if (values_[parameter] == nullptr) Fail(parameter, "a value");
  return *values_[parameter];
}

bool BoundArguments::IsGiven(size_t parameter) const {
  return values_[parameter] != nullptr && !values_[parameter]->is_none();
}

const std::string& BoundArguments::Text(size_t parameter) const {
  if (Required(parameter).text() == nullptr) Fail(parameter, "text");
  return values_[parameter]->text()->bytes;
}

int64_t BoundArguments::Integer(size_t parameter, int64_t fallback) const {
  if (!IsGiven(parameter)) return fallback;
  if (!values_[parameter]->is_integral()) Fail(parameter, "an integer");
  return values_[parameter]->integer();
}

bool BoundArguments::Bool(size_t parameter, bool fallback) const {
  return values_[parameter] == nullptr ? fallback : IsTrue(*values_[parameter]);
}

void BoundArguments::Fail(size_t parameter, const char* wanted) const {
  const Value* value = values_[parameter];
  throw Failure(std::string(function_) + ": the argument '" + parameters_[parameter] +
                "': wanted " + wanted + ", got " +
                (value == nullptr ? "nothing" : value->type_name()));
}

}  // namespace fla::chat
