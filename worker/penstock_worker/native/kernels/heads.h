// Products of which every head has its own: inputs and weights.

#pragma once

#include <cstddef>
#include <vector>

#include "inputs.h"
#include "linear.h"
#include "products.h"
#include "team.h"

namespace {

// Where the inputs of heads lie: those of a row side by side, or with other numbers between them.
struct HeadRows {
  const float* from;
  size_t row_stride, head_stride;
};

class HeadProducts {
 public:
  HeadProducts(Team& team, const Products& products, int heads)
      : team_(team), products_(products), packed_(heads) {}

  // Make room for `rows` at a time.
  void reserve(const std::vector<Linear>& linears, int rows) {
    memory_.reserve(linears[0].kind, rows, linears[0].inputs, static_cast<int>(linears.size()));
  }

  // Multiply each head's part of all rows with its weights; `emit(row, head, column, count, values)`
  // takes what comes out. Called by every thread of the team, with the same values.
  template <class F>
  void multiply(const std::vector<Linear>& linears, const HeadRows& of, int rows, int thread, F emit) {
    const int heads = static_cast<int>(linears.size()), inputs = linears[0].inputs;
    team_.each(heads, [&](int head) {
      packed_[head].shape(linears[head].kind, rows, inputs);
      memory_.place(packed_[head], head);
    });
    const int tiles = packed_[0].tiles();
    team_.each(heads * tiles, [&](int task) {
      const int head = task / tiles, t = task % tiles;
      const size_t first = size_t(t) * packed_[head].tile;
      packed_[head].pack(t, of.from + first * of.row_stride + head * of.head_stride, of.row_stride, inputs);
    });
    const int panels = linears[0].panels(), blocks = packed_[0].blocks();
    team_.each(heads * blocks * panels, [&](int task) {
      const int head = task / (blocks * panels), panel = task % panels;
      const Linear& linear = linears[head];
      products_.multiply_panel(
          linear, packed_[head], panel, task / panels % blocks, linear.panel(panel + team_.size()), thread,
          [&](int row, int column, int count, const float* y) { emit(row, head, column, count, y); });
    });
  }

 private:
  Team& team_;
  const Products& products_;
  std::vector<Inputs> packed_;  // by head
  InputMemory memory_;
};

}  // namespace
