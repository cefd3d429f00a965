#include "common/parallel.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace fluxcore::detail {
namespace {

// Calls in a row find the pool's threads awake, and the caller those that are about to end: waking one through the
// system takes tens of microseconds, on a virtual machine more, which is what a small op takes in all.
constexpr int kSpins = 2000;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Until `holds` does, but not for long.
template <class Condition>
void spin_until(const Condition& holds) {
  for (int i = 0; i < kSpins && !holds(); ++i) pause();
}

// One parallel_for. The caller waits until nobody holds it, so it lives on the caller's stack.
struct Job {
  Job(std::int64_t of, std::int64_t by, RangeTask body, const void* with)
      : count(of), grain(by), task(body), context(with) {}

  const std::int64_t count;
  const std::int64_t grain;
  const RangeTask task;
  const void* const context;
  std::atomic<std::int64_t> next = 0;
  int wanted = 0;                // pool threads that may still join; guarded by the pool's mutex
  std::atomic<int> working = 0;  // pool threads inside; changed under the pool's mutex
  std::exception_ptr error;
  std::mutex error_mutex;

  void work() noexcept {
    for (;;) {
      const std::int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) return;
      try {
        task(context, begin, std::min(count, begin + grain));
      } catch (...) {
        const std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
        next.store(count, std::memory_order_relaxed);
      }
    }
  }
};

// Threads that wait for jobs. Starting a thread costs more than waking one, and an op may take only tens of
// microseconds.
class Pool {
 public:
  void run(Job& job, int helpers) {
    {
      const std::lock_guard lock(mutex_);
      // Other jobs may be keeping the pool busy: what matters is the number of helpers wanted at once.
      int wanted = helpers;
      for (const Job* other : jobs_) wanted += other->wanted + other->working;
      while (started_ < wanted) start_thread();
      job.wanted = helpers;
      jobs_.push_back(&job);
      pushed_.fetch_add(1, std::memory_order_relaxed);
    }
    for (int i = 0; i < helpers; ++i) work_.notify_one();
    job.work();
    spin_until([&] { return job.working.load(std::memory_order_relaxed) == 0; });
    std::unique_lock lock(mutex_);
    std::erase(jobs_, &job);
    idle_.wait(lock, [&] { return job.working == 0; });
  }

 private:
  void start_thread() {
    std::thread([this] { serve(); }).detach();
    ++started_;
  }

  void serve() {
    std::unique_lock lock(mutex_);
    const auto open = [](const Job* job) { return job->wanted > 0; };
    for (;;) {
      auto found = jobs_.end();
      work_.wait(lock, [&] { return (found = std::ranges::find_if(jobs_, open)) != jobs_.end(); });
      Job& job = **found;
      --job.wanted;
      ++job.working;
      lock.unlock();
      job.work();
      lock.lock();
      if (--job.working == 0) idle_.notify_all();
      if (std::ranges::none_of(jobs_, open)) {
        const std::uint64_t seen = pushed_.load(std::memory_order_relaxed);
        lock.unlock();
        spin_until([&] { return pushed_.load(std::memory_order_relaxed) != seen; });
        lock.lock();
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable work_;
  std::condition_variable idle_;
  std::deque<Job*> jobs_;
  std::atomic<std::uint64_t> pushed_ = 0;  // jobs so far
  int started_ = 0;
};

// Never destroyed: its threads outlive static destructors. A forked child has none of the threads and may hold copies
// of locked mutexes, so it starts over with a new pool.
std::atomic<Pool*>& current_pool() {
  static std::atomic<Pool*> pool = [] {
    pthread_atfork(nullptr, nullptr, [] { current_pool().store(new Pool); });
    return new Pool;
  }();
  return pool;
}

}  // namespace

void run_parallel(std::int64_t count, std::int64_t grain, int threads, RangeTask task, const void* context) {
  if (threads < 1) throw std::invalid_argument("`threads` must be >= 1, got " + std::to_string(threads));
  if (grain < 1) throw std::invalid_argument("`grain` must be >= 1, got " + std::to_string(grain));
  if (count <= 0) return;
  const std::int64_t ranges = (count - 1) / grain + 1;
  const int helpers = static_cast<int>(std::min<std::int64_t>(threads, ranges)) - 1;
  Job job(count, grain, task, context);
  if (helpers == 0) {
    job.work();
  } else {
    current_pool().load()->run(job, helpers);
  }
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace fluxcore::detail
