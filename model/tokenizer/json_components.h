// The components of a tokenizer.json, each a JSON object with a "type".
#pragma once

#include <string>
#include <vector>

#include "model/tokenizer/decoder.h"
#include "model/tokenizer/json_fields.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/pre_tokenizer.h"

namespace fla::tokenizer {

// `json` null means that there is none; `where` begins the error messages. Sequences come out flat.
// All throw std::runtime_error, which names a type that is not supported.
std::vector<Normalizer> ReadNormalizers(const Json* json, const std::string& where);
std::vector<PreTokenizer> ReadPreTokenizers(const Json* json, const std::string& where);
std::vector<DecodeStep> ReadDecodeSteps(const Json* json, const std::string& where);
// Sets the ids that are put before and after a text.
void ReadPostProcessor(const Json* json, const std::string& where, std::vector<int>* prefix,
                       std::vector<int>* suffix);

}  // namespace fla::tokenizer
