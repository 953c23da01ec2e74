// The experts of a layer (Shazeer et al., 2017), and how a token's are chosen.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "interface.h"
#include "linear.h"

namespace {

struct Expert {
  Linear gate, up, down;

  Linear& linear(int which) { return which == 0 ? gate : which == 1 ? up : down; }
};

// Shared experts are the last one of all: every token chooses it.
struct Experts : PenstockExperts {
  Linear router;  // its outputs: the experts, then the shared one's gate where it has one
  std::vector<Expert> all;

  Experts() : PenstockExperts{} {}

  explicit operator bool() const { return count > 0; }
  int slots() const { return per_token + (shared_inner > 0); }  // experts of a token
  int inner_of(int expert) const { return expert < count ? inner : shared_inner; }
  size_t inner_of_token() const { return size_t(per_token) * inner + shared_inner; }

  void set(const PenstockExperts& of) {
    static_cast<PenstockExperts&>(*this) = of;
    all.resize(count + (shared_inner > 0));
  }

  static constexpr int ROOM = 4;  // times as many floats as the router gives are used to choose

  // Choose the experts of a row by what the router gave. Equal to `Router` in experts.py, which names
  // the sources.
  void choose(float* scores, int32_t* chosen, float* weights) const {
    if (shared_inner) {
      chosen[per_token] = count;
      weights[per_token] = shared_gated ? sigmoid_of(scores[count]) : 1.0f;
    }
    score(scores);
    float* ranked = scores + router.outputs;
    for (int e = 0; e < count; e++) ranked[e] = scores[e] + (correction_bias ? correction_bias[e] : 0.0f);
    if (chosen_groups < groups) keep_best_groups(ranked);
    float total = 1e-20f;
    for (int i = 0; i < per_token; i++) {
      chosen[i] = take_best(ranked, count);
      weights[i] = scores[chosen[i]];
      total += weights[i];
    }
    for (int i = 0; i < per_token; i++) weights[i] *= normalized ? scaling / total : scaling;
  }

 private:
  static float sigmoid_of(float x) { return 1.0f / (1.0f + std::exp(-x)); }

  void score(float* x) const {
    if (sigmoid) {
      for (int e = 0; e < count; e++) x[e] = sigmoid_of(x[e]);
      return;
    }
    const float top = *std::max_element(x, x + count);
    float total = 0;
    for (int e = 0; e < count; e++) total += x[e] = std::exp(x[e] - top);
    for (int e = 0; e < count; e++) x[e] /= total;
  }

  // The first of the largest, which is not found again.
  static int take_best(float* values, int length) {
    const int best = std::max_element(values, values + length) - values;
    values[best] = -INFINITY;
    return best;
  }

  void keep_best_groups(float* ranked) const {
    const int size = count / groups;
    float *best = ranked + count, *values = best + groups;
    for (int g = 0; g < groups; g++) {
      std::copy_n(ranked + g * size, size, values);
      best[g] = 0;
      for (int i = 0; i < group_best; i++) best[g] += ranked[g * size + take_best(values, size)];
    }
    for (int i = 0; i < chosen_groups; i++) take_best(best, groups);
    for (int g = 0; g < groups; g++)
      if (best[g] > -INFINITY) std::fill_n(ranked + g * size, size, -INFINITY);
  }
};

}  // namespace
