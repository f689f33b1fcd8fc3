// A file in memory whose failing pages are an answer, and not the death of the process.
#pragma once

#include <atomic>
#include <cstddef>

namespace fla {

// Bytes of a file, mapped to be read.
//
// The kernel answers the read of a mapped page that cannot be had, because the file ends before it
// by now or its disk fails, with SIGBUS. For an address within a GuardedMap the signal's handler
// puts zeros in the place of all of the map, and the read goes on. So whoever has read asks
// broken() afterwards, and if it is true uses nothing of what was read. Any other SIGBUS goes where
// it would have gone before the first map was made: by default the process ends. The handler is
// installed by the first map and stays; a handler that is installed later has to hand on what is
// not its own.
//
// Where a file ends within a page, the rest of that page reads as zeros and no signal comes: that
// it was cut there shows in its size alone.
//
// Thread safety: any thread may make and read maps. The handler takes no lock and no memory.
class GuardedMap {
 public:
  // Maps the first `size` > 0 bytes of an open file. Throws std::system_error where that fails.
  GuardedMap(int descriptor, size_t size);
  ~GuardedMap();
  GuardedMap(const GuardedMap&) = delete;
  GuardedMap& operator=(const GuardedMap&) = delete;

  const char* data() const { return data_; }
  size_t size() const { return size_; }
  // True for good once a page could not be had.
  bool broken() const { return broken_; }

 private:
  friend struct BusErrors;

  char* data_;
  size_t size_;
  std::atomic<bool> broken_ = false;
  std::atomic<GuardedMap*> next_ = nullptr;  // in the list that the handler walks
};

}  // namespace fla
