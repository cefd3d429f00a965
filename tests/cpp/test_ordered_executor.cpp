#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "data/ordered_executor.hpp"
#include "doctest.h"

using fluxcore::data::OrderedExecutor;

TEST_CASE("jobs come back in the order in which they went in, whatever each of them takes") {
  for (const size_t threads : std::vector<size_t>{0, 1, 4}) {
    std::atomic<int> finished{0};
    std::vector<int> results(200, -1);
    OrderedExecutor executor(threads);
    for (int i = 0; i < 200; ++i) {
      executor.submit([&, i] {
        std::this_thread::sleep_for(std::chrono::microseconds(i % 7 * 50));
        results[static_cast<size_t>(i)] = i;
        ++finished;
      });
    }
    CHECK(executor.pending() == 200);
    for (int i = 0; i < 200; ++i) {
      executor.next();
      CHECK(results[static_cast<size_t>(i)] == i);
      CHECK(finished > i);
    }
    CHECK(executor.pending() == 0);
  }
}

TEST_CASE("an error comes out in its place and disturbs no other job") {
  for (const size_t threads : std::vector<size_t>{0, 1, 3}) {
    OrderedExecutor executor(threads);
    for (int i = 0; i < 20; ++i) {
      executor.submit([i] {
        if (i % 5 == 2) {
          throw std::runtime_error(std::to_string(i));
        }
      });
    }
    for (int i = 0; i < 20; ++i) {
      if (i % 5 == 2) {
        CHECK_THROWS_WITH_AS(executor.next(), std::to_string(i).c_str(), std::runtime_error);
      } else {
        CHECK_NOTHROW(executor.next());
      }
    }
  }
}

TEST_CASE("a job is told who runs it") {
  for (const size_t threads : std::vector<size_t>{0, 1, 3}) {
    std::vector<size_t> runners(100, 99);
    std::vector<std::thread::id> ids(100);
    OrderedExecutor executor(threads);
    for (size_t i = 0; i < 100; ++i) {
      executor.submit([&, i](size_t runner) {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
        runners[i] = runner;
        ids[i] = std::this_thread::get_id();
      });
    }
    for (size_t i = 0; i < 100; ++i) {
      executor.next();
      REQUIRE(runners[i] <= threads);
      CHECK((runners[i] == 0) == (ids[i] == std::this_thread::get_id()));
      for (size_t j = 0; j < i; ++j) REQUIRE((runners[i] == runners[j]) == (ids[i] == ids[j]));
    }
  }
}

TEST_CASE("next without a job is an error, and the executor goes on") {
  OrderedExecutor executor(1);
  CHECK_THROWS_AS(executor.next(), std::logic_error);
  bool ran = false;
  executor.submit([&] { ran = true; });
  executor.next();
  CHECK(ran);
}

TEST_CASE("jobs run at the same time, on as many threads as asked for") {
  std::atomic<int> meeting{0};
  OrderedExecutor executor(3);
  for (int i = 0; i < 3; ++i) {
    executor.submit([&] {
      ++meeting;
      while (meeting < 3) {
        std::this_thread::yield();
      }
    });
  }
  for (int i = 0; i < 3; ++i) {
    executor.next();
  }
  CHECK(meeting == 3);
}

TEST_CASE("who waits does what no thread has taken") {
  OrderedExecutor executor(1);
  std::atomic<bool> helped{false};
  executor.submit([&] {
    while (!helped) {
      std::this_thread::yield();
    }
  });
  executor.submit([&] { helped = true; });
  executor.next();
  CHECK(helped);
  executor.next();
}

TEST_CASE("destruction waits for what runs, drops what waits, and loses no thread") {
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> started{0};
    std::atomic<int> ended{0};
    {
      OrderedExecutor executor(2);
      for (int i = 0; i < 8; ++i) {
        executor.submit([&] {
          ++started;
          std::this_thread::sleep_for(std::chrono::microseconds(20));
          ++ended;
        });
      }
    }
    CHECK(started == ended);
  }
}

TEST_CASE("a forked child can destroy its copy") {
  auto executor = std::make_unique<OrderedExecutor>(2);
  for (int i = 0; i < 4; ++i) {
    executor->submit([] { std::this_thread::sleep_for(std::chrono::milliseconds(5)); });
  }
  const pid_t child = fork();
  if (child == 0) {
    executor.reset();
    _exit(0);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
  for (int i = 0; i < 4; ++i) {
    CHECK_NOTHROW(executor->next());
  }
}
