// Put before everything where protobuf's headers are included under ThreadSanitizer. They add
// members to the classes of maps there, of which the distribution's library, that was built
// without, knows nothing: the two would take each other's memory for something else.
#pragma once

#include <version>  // the standard library has looked at the macro then

#undef __SANITIZE_THREAD__
#define FLA_THREAD_SANITIZER  // what proto/grpc_handover.h asks for
