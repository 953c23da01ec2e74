// LoRA adapters (Hu et al., 2021) beside the linear layers they are for.

#pragma once

#include <algorithm>
#include <vector>

#include "functions.h"
#include "vectors.h"

namespace {

// What an adapter adds to a linear layer is B (A x). A x is found once for all linear layers that
// share an input; it is multiplied with B where the layer's own sums are at hand. Both go row by
// row in float32, so an adapted row's numbers depend on nothing beside it either.

constexpr int RANKS = 16;  // of a task

// A of the linear layers that share an input, one below the other: [rank][inputs].
struct Reduction {
  const float* a = nullptr;
  int rank = 0;

  // to[j] = A[j] . x for `count` ranks from `first` on; four at a time share what is read of x.
  void apply(const float* x, int inputs, int first, int count, float* to) const {
    for (int j = first; j < first + count; j += 4) {
      const float* rows[4];
      Floats sums[4] = {};
      for (int i = 0; i < 4; i++) rows[i] = a + size_t(std::min(j + i, rank - 1)) * inputs;
      int k = 0;
      for (; k + W <= inputs; k += W) {
        const Floats values = load<Floats>(x + k);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) sums[i] += values * load<Floats>(rows[i] + k);
      }
      for (int i = 0; i < 4 && j + i < first + count; i++) {
        to[j + i] = sum(sums[i]);
        for (int rest = k; rest < inputs; rest++) to[j + i] += x[rest] * rows[i][rest];
      }
    }
  }
};

// B of some outputs of a linear layer, packed into its panels: [panel][rank][PANEL].
struct Expansion {
  int at, rank;  // which of the ranks of the reduction
  int first_panel, panels;
  std::vector<float> b;

  // b is [outputs][rank], for the columns from `first` on.
  Expansion(int at, int rank, int first, int outputs, const float* from)
      : at(at), rank(rank), first_panel(first / PANEL), panels((first + outputs - 1) / PANEL - first_panel + 1),
        b(size_t(panels) * rank * PANEL) {
    for (int c = 0; c < outputs; c++) {
      const int column = first + c - first_panel * PANEL;
      float* to = &b[size_t(column / PANEL) * rank * PANEL + column % PANEL];
      for (int j = 0; j < rank; j++) to[size_t(j) * PANEL] = from[size_t(c) * rank + j];
    }
  }

  // y[PANEL] += B t for the columns of a panel.
  void apply(const float* reduced, int panel, float* y) const {
    if (panel < first_panel || panel >= first_panel + panels) return;
    const float* from = &b[size_t(panel - first_panel) * rank * PANEL];
    Floats left = load<Floats>(y), right = load<Floats>(y + W);
    for (int j = 0; j < rank; j++, from += PANEL) {
      left += reduced[at + j] * load<Floats>(from);
      right += reduced[at + j] * load<Floats>(from + W);
    }
    store(y, left);
    store(y + W, right);
  }
};

}  // namespace
