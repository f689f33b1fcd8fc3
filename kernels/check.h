// FLA_CHECK(condition): a broken invariant (a bug of the caller, never bad input) ends the process
// with the place and the condition on stderr.
#pragma once

#include <cstdio>
#include <cstdlib>

#define FLA_CHECK(condition)                                                             \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)
