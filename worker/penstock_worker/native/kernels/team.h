// Threads that walk through a step together.

#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

// A fixed team that runs one function together. Waiting threads spin for some ten microseconds, as
// phases are that short, then sleep: whoever is waited for may have lost its processor to another
// process, and gets it back the sooner.
constexpr int SPINS = 1000;

class Team {
 public:
  explicit Team(int size) : size_(size) {
    for (int i = 1; i < size; i++) threads_.emplace_back([this, i] { follow(i); });
  }

  ~Team() {
    stop_ = true;
    advance(round_);
    for (auto& thread : threads_) thread.join();
  }

  int size() const { return size_; }

  template <class F>
  void run(F& work) {
    call_ = [](void* f, int thread) { (*static_cast<F*>(f))(thread); };
    argument_ = &work;
    next_.store(0, std::memory_order_relaxed);
    advance(round_);
    work(0);
    barrier();
  }

  // Within run: share out tasks 0 ... count - 1, first come first served, and wait for the last.
  template <class F>
  void each(int count, F task) {
    for (int i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count;) task(i);
    barrier();
  }

 private:
  void follow(int thread) {
    for (uint32_t seen = 0;; seen++) {
      await(round_, seen);
      if (stop_) return;
      call_(argument_, thread);
      barrier();
    }
  }

  void barrier() {
    if (size_ == 1) {
      next_.store(0, std::memory_order_relaxed);
      return;
    }
    const uint32_t phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      next_.store(0, std::memory_order_relaxed);
      advance(phase_);
    } else {
      await(phase_, phase);
    }
  }

  static void advance(std::atomic<uint32_t>& counter) {
    counter.fetch_add(1, std::memory_order_acq_rel);
    counter.notify_all();
  }

  static void await(const std::atomic<uint32_t>& counter, uint32_t seen) {
    for (int spin = 0; spin < SPINS; spin++) {
      if (counter.load(std::memory_order_acquire) != seen) return;
#if defined(__x86_64__)
      _mm_pause();
#endif
    }
    counter.wait(seen, std::memory_order_acquire);
  }

  const int size_;
  std::atomic<bool> stop_{false};
  void (*call_)(void*, int) = nullptr;
  void* argument_ = nullptr;
  alignas(64) std::atomic<uint32_t> round_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> next_{0};
  std::vector<std::thread> threads_;
};

}  // namespace
