#include "data/map_guard.hpp"

#include <csetjmp>
#include <csignal>
#include <mutex>

namespace fluxcore::data {
namespace {

struct sigaction previous = {};
thread_local sigjmp_buf* way_out = nullptr;  // of the guarded read of this thread

// NOLINTBEGIN(bugprone-signal-handler,cert-err52-cpp): the only way back out of a read that cannot be made. It skips no
// destructor, and the signal comes from that very read, not from the middle of anything else.
void on_bus_error(int signal, siginfo_t* info, void* context) {
  if (way_out != nullptr) siglongjmp(*way_out, 1);
  if ((previous.sa_flags & SA_SIGINFO) != 0) {
    previous.sa_sigaction(signal, info, context);
  } else if (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN) {
    ::sigaction(SIGBUS, &previous, nullptr);  // the read is made again, and ends the process as it would have before
  } else {
    previous.sa_handler(signal);
  }
}

void answer_bus_errors() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction ours = {};
    ours.sa_sigaction = on_bus_error;
    // SA_NODEFER: leaving the handler by a jump must not leave the signal blocked.
    ours.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    ::sigemptyset(&ours.sa_mask);
    ::sigaction(SIGBUS, &ours, &previous);
  });
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
