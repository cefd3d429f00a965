#include "data/map_guard.hpp"

#include <algorithm>
#include <array>
#include <csetjmp>
#include <csignal>
#include <mutex>

#include "data/fork_lock.hpp"

namespace fluxcore::data {
namespace {

// The answers to SIGBUS that ours took the place of, the last one on top.
std::array<struct sigaction, 8> displaced = {};
volatile std::sig_atomic_t displaced_count = 0;
thread_local sigjmp_buf* way_out = nullptr;  // of the guarded read of this thread

// NOLINTBEGIN(bugprone-signal-handler,cert-err52-cpp): the only way back out of a read that cannot be made. It skips no
// destructor, and the signal comes from that very read, not from the middle of anything else.
void on_bus_error(int signal, siginfo_t* info, void* /*context*/) {
  const bool is_sent = info->si_code <= 0;  // by a process, not by a read
  if (way_out != nullptr && !is_sent) siglongjmp(*way_out, 1);
  // Not ours. The answer below takes over, and gets the signal again: from the read that is made again, or from here.
  // It may itself bring back the one below it, which is us, so that we go down by one each time.
  const std::sig_atomic_t count = displaced_count;
  const auto below = static_cast<std::size_t>(count > 0 ? count - 1 : 0);
  displaced_count = static_cast<std::sig_atomic_t>(below);
  ::sigaction(signal, &displaced[below], nullptr);
  if (is_sent) ::raise(signal);
}

bool is_ours(struct sigaction& current) noexcept {
  ::sigaction(SIGBUS, nullptr, &current);
  return (current.sa_flags & SA_SIGINFO) != 0 && current.sa_sigaction == on_bus_error;
}

// Others take the signal too, a worker process of a PyTorch DataLoader for one, so that this is looked at each time.
void answer_bus_errors() noexcept {
  struct sigaction current = {};
  if (is_ours(current)) return;
  const std::lock_guard lock(fork_lock<sigjmp_buf>());
  if (is_ours(current)) return;
  struct sigaction ours = {};
  ours.sa_sigaction = on_bus_error;
  // SA_NODEFER: leaving the handler by a jump must not leave the signal blocked.
  ours.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
  ::sigemptyset(&ours.sa_mask);
  const auto top = std::min(static_cast<std::size_t>(displaced_count), displaced.size() - 1);
  displaced[top] = current;
  displaced_count = static_cast<std::sig_atomic_t>(top + 1);
  ::sigaction(SIGBUS, &ours, nullptr);
}

}  // namespace

bool run_guarded(void (*body)(void*), void* argument) noexcept {
  answer_bus_errors();
  sigjmp_buf here;
  sigjmp_buf* const outer = way_out;
  if (sigsetjmp(here, 0) != 0) {
    way_out = outer;
    return false;
  }
  way_out = &here;
  body(argument);
  way_out = outer;
  return true;
}
// NOLINTEND(bugprone-signal-handler,cert-err52-cpp)

}  // namespace fluxcore::data
