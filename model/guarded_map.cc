#include "model/guarded_map.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>

namespace fla {

// All maps, for the handler of SIGBUS, which may run on any thread at any moment: it reads the list
// while others change it, and those wait with freeing a map until no handler can still see it.
struct BusErrors {
  static void Add(GuardedMap& map);
  static void Remove(GuardedMap& map);
  static void Handle(int signal, siginfo_t* details, void* context);
  static bool Mend(uintptr_t address);
  static void HandOn(int signal, siginfo_t* details, void* context);

  static_assert(std::atomic<GuardedMap*>::is_always_lock_free &&
                std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);
  static inline std::atomic<GuardedMap*> first = nullptr;
  static inline std::atomic<int> walkers = 0;
  static inline std::mutex changes;  // of the list; not for the handler
  static inline bool installed = false;
  static inline struct sigaction before {};
};

void BusErrors::Add(GuardedMap& map) {
  const std::lock_guard lock(changes);
  if (!installed) {
    struct sigaction action {};
    action.sa_sigaction = &BusErrors::Handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGBUS, &action, &before) != 0) {
      throw std::system_error(errno, std::generic_category());
    }
    installed = true;
  }
  map.next_ = first.load();
  first = &map;
}

void BusErrors::Remove(GuardedMap& map) {
  const std::lock_guard lock(changes);
  std::atomic<GuardedMap*>* link = &first;
  while (*link != &map) link = &link->load()->next_;
  *link = map.next_.load();
  // A handler that begins from here on does not come by the map any more.
  while (walkers != 0) std::this_thread::yield();
}

// True if the address lies in a map, which then has pages of zeros.
bool BusErrors::Mend(uintptr_t address) {
  GuardedMap* map = first;
  for (; map != nullptr; map = map->next_) {
    if (address - reinterpret_cast<uintptr_t>(map->data_) < map->size_) break;
  }
  if (map == nullptr) return false;
  map->broken_ = true;  // before anybody can read a zero
  // The bare call: ThreadSanitizer's mmap counts as a write, which races with other readers.
  return syscall(SYS_mmap, map->data_, map->size_, PROT_READ,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1L, 0L) != -1;
}

void BusErrors::Handle(int signal, siginfo_t* details, void* context) {
  const int error = errno;
  bool mended = false;
  // Positive: from the kernel, with an address. Which code it is says nothing: gVisor's is another.
  if (details->si_code > 0) {
    ++walkers;
    mended = Mend(reinterpret_cast<uintptr_t>(details->si_addr));
    --walkers;
  }
  if (!mended) HandOn(signal, details, context);
  errno = error;
}

void BusErrors::HandOn(int signal, siginfo_t* details, void* context) {
  const bool from_kernel = details->si_code > 0;
  if ((before.sa_flags & SA_SIGINFO) != 0) return before.sa_sigaction(signal, details, context);
  if (before.sa_handler == SIG_IGN && !from_kernel) return;
  if (before.sa_handler != SIG_IGN && before.sa_handler != SIG_DFL)
    return before.sa_handler(signal);
  // A fault of the kernel's comes again when this returns, and ends the process where it happened.
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  sigaction(SIGBUS, &action, nullptr);
  if (!from_kernel) raise(SIGBUS);
}

GuardedMap::GuardedMap(int descriptor, size_t size) : size_(size) {
  void* const memory = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (memory == MAP_FAILED) throw std::system_error(errno, std::generic_category());
  data_ = static_cast<char*>(memory);
  try {
    BusErrors::Add(*this);
  } catch (...) {
    munmap(data_, size_);
    throw;
  }
}

GuardedMap::~GuardedMap() {
  BusErrors::Remove(*this);
  munmap(data_, size_);
}

}  // namespace fla
