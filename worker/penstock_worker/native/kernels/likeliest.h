// The likeliest token of each row, of logits that come in panels, to several threads.

#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "vectors.h"

namespace {

class Likeliest {
 public:
  explicit Likeliest(int threads) : best_(threads) {}

  void begin(int rows) {
    for (auto& mine : best_) mine.assign(rows, Best{-INFINITY, 0});
  }

  // Take a panel of a row's logits, those of tokens `first` and up.
  void take(int thread, int row, int first, int count, const float* logits) {
    Best& mine = best_[thread][row];
    const Floats high = load<Floats>(logits);
    if (count == PANEL && largest(max(high, load<Floats>(logits + W))) <= mine.value) return;
    for (int i = 0; i < count; i++)
      if (logits[i] > mine.value) mine = {logits[i], first + i};
  }

  int32_t of(int row) const {  // among equals the first, as everywhere
    Best found = best_[0][row];
    for (const auto& theirs : best_) {
      const Best& other = theirs[row];
      if (other.value > found.value || (other.value == found.value && other.token < found.token))
        found = other;
    }
    return found.token;
  }

 private:
  struct Best {
    float value;
    int32_t token;
  };

  std::vector<std::vector<Best>> best_;  // per thread, per row
};

}  // namespace
