#pragma once

#include <type_traits>

namespace fluxcore::data {

// Calls `body(argument)`; false if it had to be left half-way.
bool run_guarded(void (*body)(void*), void* argument) noexcept;

// Runs `read`, which reads mapped files; false when a page of one cannot be brought in, because its file was cut or the
// disk failed: the system then sends SIGBUS, which ends a process that has no answer to it. `read` must not throw and
// own nothing, for no destructor runs when it is left.
template <class Read>
[[nodiscard]] bool read_mapped(Read&& read) noexcept {
  using Body = std::remove_reference_t<Read>;
  return run_guarded([](void* argument) { (*static_cast<Body*>(argument))(); }, &read);
}

}  // namespace fluxcore::data
