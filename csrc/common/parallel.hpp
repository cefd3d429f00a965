#pragma once

#include <cstdint>
#include <memory>

namespace fluxcore {
namespace detail {

using RangeTask = void (*)(const void* context, std::int64_t begin, std::int64_t end);
void run_parallel(std::int64_t count, std::int64_t grain, int threads, RangeTask task, const void* context);

}  // namespace detail

// Calls body(begin, end) until [0, count) is covered, on the caller and at most threads - 1 pool threads.
//
// Ranges have `grain` elements (the last may have fewer) and are handed out in order, so that a thread that the system
// holds up does not hold up the rest. `body` runs on several threads at once; the first exception that it throws stops
// the hand-out and is rethrown here. Safe from any thread, from inside another parallel_for and in a forked child.
// Throws std::invalid_argument for threads < 1 or grain < 1.
template <class Body>
void parallel_for(std::int64_t count, std::int64_t grain, int threads, const Body& body) {
  const auto call = [](const void* context, std::int64_t begin, std::int64_t end) {
    (*static_cast<const Body*>(context))(begin, end);
  };
  detail::run_parallel(count, grain, threads, call, std::addressof(body));
}

}  // namespace fluxcore
