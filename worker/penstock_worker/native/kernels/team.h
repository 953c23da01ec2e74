// Threads that walk through a step together.

#pragma once

#include <atomic>
#include <climits>
#include <cstdint>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

// Waiting threads spin for some ten microseconds, as phases are that short, then sleep: whoever is
// waited for may have lost its processor to another process, and gets it back the sooner.
constexpr int SPINS = 1000;

// A fixed team that runs one function together, which consists of phases of tasks. A phase is over
// when its tasks are done, not when all threads have come: one that is not awake yet, or has lost its
// processor, holds up nobody unless it is in the middle of a task, and skips what is over.
class Team {
 public:
  explicit Team(int size) : size_(size) {
    try {
      for (int i = 1; i < size; i++) threads_.emplace_back([this, i] { follow(i); });
    } catch (...) {  // one more could not be had; those that are there must end
      stop();
      throw;
    }
  }

  ~Team() { stop(); }

  int size() const { return size_; }

  // Every thread that takes part calls `work` with its number. What a late one reads outside of tasks
  // may be of a later phase than its own: so it may count wrongly the tasks of one that is over, of
  // which there are none to take.
  template <class F>
  void run(F& work) {
    call_ = [](void* f, int thread) { (*static_cast<F*>(f))(thread); };
    argument_ = &work;
    next_.store(0, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    left_.store(0, std::memory_order_relaxed);
    inside_.store(0, std::memory_order_release);
    advance(round_);
    phase_of_mine() = 0;
    work(0);
    // Who came in must have gone before anything that they look at does.
    const uint32_t others = inside_.exchange(CLOSED, std::memory_order_acq_rel);
    for (uint32_t left; (left = left_.load(std::memory_order_acquire)) != others;) await(left_, left);
  }

  // Within run: share out tasks 0 ... count - 1, first come first served, and wait for the last.
  template <class F>
  void each(int count, F task) {
    if (size_ == 1) {
      for (int i = 0; i < count; i++) task(i);
      return;
    }
    const uint32_t phase = phase_of_mine()++;
    if (count > 0)
      share(phase, count, task);
    else
      pass(phase);
    await_end(phase);
  }

 private:
  template <class F>
  void share(uint32_t phase, int count, F& task) {
    int finished = 0;
    uint64_t next = next_.load(std::memory_order_acquire);
    while (next >> 32 == phase && static_cast<uint32_t>(next) < static_cast<uint32_t>(count)) {
      if (!next_.compare_exchange_weak(next, next + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
      task(static_cast<int>(static_cast<uint32_t>(next)));
      finished++;
      next = next_.load(std::memory_order_acquire);
    }
    if (!finished || done_.fetch_add(finished, std::memory_order_acq_rel) + finished != count) return;
    done_.store(0, std::memory_order_relaxed);
    next_.store(uint64_t{phase + 1} << 32, std::memory_order_release);
    advance(ended_);
  }

  // End a phase without tasks.
  void pass(uint32_t phase) {
    uint64_t next = uint64_t{phase} << 32;
    if (next_.compare_exchange_strong(next, uint64_t{phase + 1} << 32, std::memory_order_acq_rel)) advance(ended_);
  }

  void await_end(uint32_t phase) {
    auto over = [&] { return next_.load(std::memory_order_acquire) >> 32 != phase; };
    for (int spin = 0; spin < SPINS; spin++) {
      if (over()) return;
      relax();
    }
    for (;;) {
      const uint32_t seen = ended_.load(std::memory_order_acquire);
      if (over()) return;
      ended_.wait(seen, std::memory_order_acquire);
    }
  }

  void follow(int thread) {
    for (uint32_t seen = 0;;) {
      await(round_, seen);
      seen = round_.load(std::memory_order_acquire);
      if (stop_) return;
      if (!enter()) continue;
      phase_of_mine() = 0;
      call_(argument_, thread);
      advance(left_);
    }
  }

  // Take part in the run, unless it is over.
  bool enter() {
    uint32_t inside = inside_.load(std::memory_order_relaxed);
    while (inside != CLOSED)
      if (inside_.compare_exchange_weak(inside, inside + 1, std::memory_order_acq_rel, std::memory_order_relaxed))
        return true;
    return false;
  }

  void stop() {
    stop_ = true;
    advance(round_);
    for (auto& thread : threads_) thread.join();
  }

  static void advance(std::atomic<uint32_t>& counter) {
    counter.fetch_add(1, std::memory_order_acq_rel);
    counter.notify_all();
  }

  static void await(const std::atomic<uint32_t>& counter, uint32_t seen) {
    for (int spin = 0; spin < SPINS; spin++) {
      if (counter.load(std::memory_order_acquire) != seen) return;
      relax();
    }
    counter.wait(seen, std::memory_order_acquire);
  }

  static void relax() {
#if defined(__x86_64__)
    _mm_pause();
#endif
  }

  // Of the run that this thread takes part in: it is in one at a time.
  static uint32_t& phase_of_mine() {
    static thread_local uint32_t phase;
    return phase;
  }

  static constexpr uint32_t CLOSED = UINT_MAX;

  const int size_;
  std::atomic<bool> stop_{false};
  void (*call_)(void*, int) = nullptr;
  void* argument_ = nullptr;
  alignas(64) std::atomic<uint32_t> round_{0};        // of runs
  alignas(64) std::atomic<uint32_t> inside_{CLOSED};  // others that have come into the run
  alignas(64) std::atomic<uint32_t> left_{0};         // of those, who have gone
  alignas(64) std::atomic<uint64_t> next_{0};         // the phase, and its next task
  alignas(64) std::atomic<int> done_{0};              // tasks of the phase
  alignas(64) std::atomic<uint32_t> ended_{0};        // phases, for who sleeps
  std::vector<std::thread> threads_;
};

}  // namespace
