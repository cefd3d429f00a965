#include "data/ordered_executor.hpp"

#include <unistd.h>

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

namespace fluxcore::data {

class OrderedExecutor::Queue {
 public:
  explicit Queue(size_t threads) {
    threads_.reserve(threads);
    try {
      for (size_t i = 0; i < threads; ++i) {
        threads_.emplace_back([this, runner = i + 1] { work(runner); });
      }
    } catch (...) {
      stop();
      throw;
    }
  }

  ~Queue() { stop(); }
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;
  Queue(Queue&&) = delete;
  Queue& operator=(Queue&&) = delete;

  void submit(Job job) {
    bool is_time = false;
    {
      const std::lock_guard lock(mutex_);
      slots_.emplace_back(std::move(job));
      ++waiting_;
      is_time = is_time_to_wake();
    }
    if (is_time) job_came_.notify_one();
  }

  void next() {
    std::unique_lock lock(mutex_);
    if (slots_.empty()) {
      throw std::logic_error("`next` was called with no job submitted");
    }
    Slot& oldest = slots_.front();
    // Who waits works on what no thread has taken: a wait and the waking from it cost as much as a small batch.
    while (!oldest.done) {
      if (waiting_ > 0) {
        run_next(lock, kNext);
      } else {
        job_done_.wait(lock);
      }
    }
    const std::exception_ptr error = std::exchange(oldest.error, nullptr);
    slots_.pop_front();
    const bool is_time = is_time_to_wake();
    lock.unlock();
    if (is_time) job_came_.notify_one();
    if (error) {
      std::rethrow_exception(error);
    }
  }

  [[nodiscard]] size_t pending() const {
    const std::lock_guard lock(mutex_);
    return slots_.size();
  }

 private:
  struct Slot {
    explicit Slot(Job work) : job(std::move(work)) {}
    Job job;
    std::exception_ptr error;
    bool done = false;
  };

  // A thread that sleeps is woken for half of the jobs at once; what it leaves, `next` does.
  [[nodiscard]] bool is_time_to_wake() const { return waiting_ > 0 && 2 * waiting_ >= slots_.size(); }

  static constexpr size_t kNext = 0;

  static void run(Slot& slot, size_t runner) noexcept {
    try {
      slot.job(runner);
    } catch (...) {
      slot.error = std::current_exception();
    }
  }

  // Runs the oldest of the jobs that nobody has taken, unlocked.
  void run_next(std::unique_lock<std::mutex>& lock, size_t runner) {
    // Jobs start in order, so those are the youngest. A deque's elements stay where they are.
    Slot& slot = slots_[slots_.size() - waiting_--];
    lock.unlock();
    run(slot, runner);
    lock.lock();
    slot.done = true;
  }

  void work(size_t runner) {
    std::unique_lock lock(mutex_);
    while (true) {
      job_came_.wait(lock, [this] { return stopping_ || waiting_ > 0; });
      if (stopping_) {
        return;
      }
      run_next(lock, runner);
      job_done_.notify_one();
    }
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    job_came_.notify_all();
    for (std::thread& thread : threads_) {
      thread.join();
    }
  }

  mutable std::mutex mutex_;
  std::condition_variable job_came_;
  std::condition_variable job_done_;
  std::deque<Slot> slots_;  // from submission to delivery
  size_t waiting_ = 0;      // of them, those that no thread has taken
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

OrderedExecutor::OrderedExecutor(size_t threads) : queue_(std::make_unique<Queue>(threads)), owner_(getpid()) {}

OrderedExecutor::~OrderedExecutor() {
  if (getpid() != owner_) {
    [[maybe_unused]] const Queue* left_behind = queue_.release();
  }
}

void OrderedExecutor::submit(Job job) { queue_->submit(std::move(job)); }
void OrderedExecutor::submit(std::function<void()> job) {
  queue_->submit([job = std::move(job)](size_t /*runner*/) { job(); });
}
void OrderedExecutor::next() { queue_->next(); }
size_t OrderedExecutor::pending() const { return queue_->pending(); }

}  // namespace fluxcore::data
