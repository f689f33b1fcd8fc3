#include "model/architectures.h"
#include "model/checkpoint_report.h"

namespace fla {
namespace {

const char* Named(Decay decay) {
  switch (decay) {
    case Decay::kNone:
      return "none";
    case Decay::kPerHead:
      return "per head";
    case Decay::kPerToken:
      return "per token";
    case Decay::kPerChannel:
      return "per channel";
  }
  return "?";
}

// "key (values)", one after the other.
std::string OptionsText(std::span<const ConfigOption> options) {
  std::string text;
  for (const ConfigOption& option : options) {
    text += (text.empty() ? "`" : "; `") + std::string(option.key) + "`";
    if (option.values != kFlagValues) text += " (" + std::string(option.values) + ")";
  }
  return text;
}

}  // namespace

std::string SupportTable() {
  std::string text = "| model_type | model | decay | update | options |\n|---|---|---|---|---|\n";
  for (const Architecture& architecture : Architectures()) {
    const MixerSpec mixer = DefaultMixer(architecture);
    text += "| `" + std::string(architecture.model_type) + "` | " + std::string(architecture.name) +
            " | " + Named(mixer.decay) + " | " +
            (mixer.update == Update::kDelta ? "delta" : "additive") + " | " +
            OptionsText(architecture.options) + " |\n";
  }
  text += "\nOptions without values are `true` or `false`. All models: " +
          OptionsText(CommonOptions()) + ". All but Edifice's: " + OptionsText(LibraryOptions()) +
          ".\n";
  text += "\n| refused | of | unless it is | what it is |\n|---|---|---|---|\n";
  for (const RefusedOption& option : RefusedOptions()) {
    text +=
        "| `" + std::string(option.key) + "` | " +
        (option.model_type.empty() ? "all" : "`" + std::string(option.model_type) + "`") + " | `" +
        std::string(option.served) + "`" +
        (option.only_with.empty() ? ""
                                  : ", or `" + std::string(option.only_with) + "` is not `true`") +
        " | " + std::string(option.reason) + " |\n";
  }
  return text;
}

}  // namespace fla
