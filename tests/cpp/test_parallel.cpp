#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "common/parallel.hpp"
#include "doctest.h"

using fluxcore::parallel_for;

namespace {

// How often each element was visited.
std::vector<int> visits(std::int64_t count, std::int64_t grain, int threads) {
  std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
  parallel_for(count, grain, threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
  });
  return {seen.begin(), seen.end()};
}

bool each_once(const std::vector<int>& seen) {
  return std::ranges::all_of(seen, [](int times) { return times == 1; });
}

}  // namespace

TEST_CASE("every element is visited once") {
  for (const std::int64_t count : {0, 1, 7, 1000}) {
    for (const std::int64_t grain : {1, 3, 5000}) {
      for (const int threads : {1, 2, 9}) CHECK(each_once(visits(count, grain, threads)));
    }
  }
}

TEST_CASE("no more threads than asked for take part, and they are reused") {
  std::set<std::thread::id> ids;
  std::mutex mutex;
  for (int call = 0; call < 50; ++call) {
    parallel_for(64, 1, 3, [&](std::int64_t, std::int64_t) {
      std::this_thread::sleep_for(std::chrono::microseconds(10));
      const std::lock_guard lock(mutex);
      ids.insert(std::this_thread::get_id());
    });
    CHECK(ids.contains(std::this_thread::get_id()));
  }
  // The pool has the eight helpers of the widest call so far; of these at most two join each time.
  CHECK(ids.size() > 1);
  CHECK(ids.size() <= 9);
}

TEST_CASE("an exception reaches the caller and the pool lives on") {
  const auto fail = [](std::int64_t begin, std::int64_t) {
    if (begin >= 10) throw std::runtime_error("row 10");
  };
  for (const int threads : {1, 4})
    CHECK_THROWS_WITH_AS(parallel_for(1000, 1, threads, fail), "row 10", std::runtime_error);
  CHECK(each_once(visits(1000, 1, 4)));
}

TEST_CASE("calls may be nested and may come from several threads at once") {
  std::atomic<int> good = 0;
  const auto nested = [&](std::int64_t, std::int64_t) { good += each_once(visits(200, 3, 3)) ? 1 : 0; };
  std::vector<std::jthread> callers;
  for (int caller = 0; caller < 4; ++caller) callers.emplace_back([&] { parallel_for(8, 1, 3, nested); });
  callers.clear();
  CHECK(good == 32);
}

TEST_CASE("a forked child has a pool of its own") {
  CHECK(each_once(visits(1000, 1, 4)));
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    alarm(20);
    _exit(each_once(visits(1000, 1, 4)) ? 0 : 1);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("a call without threads is refused") {
  const auto body = [](std::int64_t, std::int64_t) {};
  CHECK_THROWS_WITH_AS(parallel_for(5, 1, 0, body), "`threads` must be >= 1, got 0", std::invalid_argument);
  CHECK_THROWS_AS(parallel_for(5, 0, 1, body), std::invalid_argument);
}
