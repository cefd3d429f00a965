#pragma once

#include <cstddef>
#include <functional>
#include <memory>

namespace fluxcore::data {

// Runs jobs on its own threads and hands them back in the order in which they came in.
//
// An error that a job throws waits in the job's place and comes out of `next()`: it is never lost, and the jobs around
// it are not disturbed. While `next()` would wait it runs jobs that no thread has taken; with no threads, all of them.
// For one user at a time; jobs run at the same time.
// Threads do not survive a fork: in a child process the object may only be destroyed, which then leaks its queue, since
// a thread of the parent may have held the lock.
class OrderedExecutor {
 public:
  explicit OrderedExecutor(size_t threads);  // throws std::system_error when a thread cannot be started
  ~OrderedExecutor();                        // waits for the jobs that run; drops the rest
  OrderedExecutor(const OrderedExecutor&) = delete;
  OrderedExecutor& operator=(const OrderedExecutor&) = delete;
  OrderedExecutor(OrderedExecutor&&) = delete;
  OrderedExecutor& operator=(OrderedExecutor&&) = delete;

  // A job is told who runs it: 0 is `next`, the threads count from 1.
  using Job = std::function<void(size_t runner)>;
  void submit(Job job);
  void submit(std::function<void()> job);
  void next();  // waits for the oldest job and takes it out; throws what it threw; std::logic_error when there is none
  [[nodiscard]] size_t pending() const;

 private:
  class Queue;
  std::unique_ptr<Queue> queue_;
  long owner_;  // process id
};

}  // namespace fluxcore::data
