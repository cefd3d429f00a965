#pragma once

#include <pthread.h>

#include <mutex>

namespace fluxcore::data {

// The one lock of everything that is named by `Tag`. A process that is forked gets it free, whatever the threads of its
// parent were doing. It is never destroyed: what it guards may outlive the static objects.
template <class Tag>
std::mutex& fork_lock() {
  static std::mutex* const lock = [] {
    static auto* const made = new std::mutex;  // NOLINT(cppcoreguidelines-owning-memory)
    ::pthread_atfork([] { made->lock(); }, [] { made->unlock(); }, [] { made->unlock(); });
    return made;
  }();
  return *lock;
}

}  // namespace fluxcore::data
