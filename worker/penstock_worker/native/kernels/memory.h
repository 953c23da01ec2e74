// Buffers of a step. They grow before the team begins, on the thread that called: what is thrown in a
// thread ends the process.

#pragma once

#include <cstdlib>
#include <memory>
#include <new>
#include <sys/mman.h>

namespace {

// 64-byte aligned; large pieces ask for huge pages, since a step streams through all of them and
// would miss the TLB at every fourth kilobyte.
class Memory {
 public:
  void reserve(size_t bytes) {
    if (bytes <= bytes_) return;
    constexpr size_t huge = size_t{1} << 21;
    const size_t alignment = bytes >= huge ? huge : 64;
    const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    data_.reset();  // nothing of it is kept: both at once would be too much
    bytes_ = 0;
    void* found = std::aligned_alloc(alignment, rounded);
    if (!found) throw std::bad_alloc();
    if (alignment == huge) madvise(found, rounded, MADV_HUGEPAGE);
    data_.reset(found);
    bytes_ = bytes;
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> data_;
  size_t bytes_ = 0;
};

}  // namespace
