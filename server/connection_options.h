// Who may connect, how, and for how long: the keys `tls`, `api_keys` and `connections` of the
// config.
#pragma once

#include <filesystem>

#include "server/config_section.h"

namespace fla {

// PEM files. They are read again when they change, so that certificates can be renewed under way.
struct TlsOptions {
  std::filesystem::path certificate;  // of the server, with its chain; empty: no TLS
  std::filesystem::path private_key;
  std::filesystem::path client_ca;  // clients must show a certificate that it signed; empty: none
};

// In seconds.
struct ConnectionOptions {
  double keepalive = 30;  // a connection that is silent this long is asked for a sign of life
  double keepalive_timeout = 10;  // and closed without one
  double min_ping_interval = 10;  // clients that ask more often are told to go away
  double max_idle = 0;            // without a call, then closed; 0: for ever
  double max_age = 0;             // then clients are asked to connect anew; 0: for ever
  double max_age_grace = 0;       // for the calls that run then; 0: as long as they take
};

// Relative paths are of `folder`. Throw as ConfigSection does; do not look at the files.
TlsOptions ReadTls(ConfigSection section, const std::filesystem::path& folder);
ConnectionOptions ReadConnections(ConfigSection section);

}  // namespace fla
