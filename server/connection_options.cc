#include "server/connection_options.h"

#include <string>

namespace fla {
namespace {

void ReadPath(ConfigSection& section, const char* key, const std::filesystem::path& folder,
              std::filesystem::path& path) {
  std::string name;
  section.Read(key, name);
  if (!name.empty()) path = (folder / name).lexically_normal();
}

}  // namespace

TlsOptions ReadTls(ConfigSection section, const std::filesystem::path& folder) {
  section.Require("certificate", "a PEM file");
  section.Require("private_key", "a PEM file");
  TlsOptions tls;
  ReadPath(section, "certificate", folder, tls.certificate);
  ReadPath(section, "private_key", folder, tls.private_key);
  ReadPath(section, "client_ca", folder, tls.client_ca);
  for (const char* key : {"certificate", "private_key"}) {
    const ConfigSection::Json& name = *section.Find(key);
    if (name.get<std::string>().empty()) section.Fail(section.PathOf(key), "a PEM file", name);
  }
  section.RefuseOthers();
  return tls;
}

ConnectionOptions ReadConnections(ConfigSection section) {
  constexpr double kDay = 86400;
  ConnectionOptions connections;
  section.Read("keepalive_seconds", connections.keepalive, 1, kDay);
  section.Read("keepalive_timeout_seconds", connections.keepalive_timeout, 0.1, kDay);
  section.Read("min_ping_interval_seconds", connections.min_ping_interval, 0, kDay);
  section.Read("max_idle_seconds", connections.max_idle, 0, 30 * kDay);
  section.Read("max_age_seconds", connections.max_age, 0, 30 * kDay);
  section.Read("max_age_grace_seconds", connections.max_age_grace, 0, 30 * kDay);
  section.RefuseOthers();
  return connections;
}

}  // namespace fla
