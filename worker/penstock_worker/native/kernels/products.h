// Matrix products by a team of threads: inputs are packed, then each thread takes panels of weights.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "adapters.h"
#include "functions.h"
#include "inputs.h"
#include "linear.h"
#include "memory.h"
#include "plan.h"
#include "rows.h"
#include "team.h"
#include "tiles.h"
#include "vectors.h"

namespace {

// All functions but `reserve` are called by every thread of the team, with the same values.
class Products {
 public:
  Products(Team& team, const Plan& plan, int width, float eps, size_t other_scratch)
      : team_(team), plan_(plan), eps_(eps), scratch_(team.size()), packed_(team.size()) {
    const size_t sums = size_t{4} * BLOCK_TILES * MAX_TILE * PANEL;
    const size_t block = size_t{4} * BLOCK_WORDS * PANEL;
    const size_t normed = size_t{4} * MAX_TILE * width;
    for (auto& memory : scratch_) memory.reserve(std::max({2 * sums + block, normed, other_scratch}));
  }

  // Make room for inputs of these.
  void reserve(Kind kind, int rows, int width) { memory_.reserve(kind, rows, width); }

  // Make room for what a pass's adapters reduce its rows to.
  void reserve(int rows, int most_ranks) {
    most_ranks_ = most_ranks;
    if (!plan_.adapted.empty()) reduced_.reserve(size_t{4} * rows * most_ranks);
  }

  float* scratch(int thread) const { return scratch_[thread].as<float>(); }

  // Pack rows as they are, for weights of a kind.
  void pack(const float* from, int width, Kind kind, int rows, int thread) {
    pack(from, width, kind, rows, thread, [](int) {});
  }

  // The same, once `make(row)` has made each of them.
  template <class F>
  void pack(const float* from, int width, Kind kind, int rows, int thread, F make) {
    const Inputs& packed = shape_inputs(kind, rows, width, thread);
    team_.each(packed.tiles(), [&](int t) {
      const int first = t * packed.tile, end = std::min(first + packed.tile, rows);
      for (int row = first; row < end; row++) make(row);
      packed.pack(t, from + size_t(first) * width, width, width);
    });
  }

  // Pack rows, RMS-normed.
  void pack_normed(const float* from, int width, const float* weight, Kind kind, int rows, int thread) {
    float* tile = scratch(thread);
    const Inputs& packed = shape_inputs(kind, rows, width, thread);
    team_.each(packed.tiles(), [&](int t) {
      const int first = t * packed.tile, count = std::min(packed.tile, rows - first);
      for (int r = 0; r < count; r++)
        norm_row(from + size_t(first + r) * width, weight, width, eps_, tile + size_t(r) * width);
      packed.pack(t, tile, width, width);
    });
  }

  // Multiply the packed rows; `emit(row, column, count, values)` takes what comes out.
  template <class F>
  void multiply(const Linear& linear, int thread, F emit) {
    const int panels = linear.panels();
    const Inputs& packed = packed_[thread];
    team_.each(packed.blocks() * panels, [&](int task) {
      const int panel = task % panels;
      multiply_panel(linear, packed, panel, task / panels, linear.panel(panel + team_.size()), thread, emit);
    });
  }

  // to = act(x G') * (x U') for the packed rows.
  void multiply_gated(const Linear& gates, const Linear& ups, bool by_gelu, int thread, float* to) {
    const int panels = gates.panels();
    const Inputs& packed = packed_[thread];
    team_.each(packed.blocks() * panels, [&](int task) {
      const int panel = task % panels;
      gate_panel(gates, ups, packed, panel, task / panels, gates.panel(panel + team_.size()), by_gelu, thread, to);
    });
  }

  // A panel of a product, for a block of its inputs' tiles. `next` are the weights that this thread
  // will probably read after these. This and the next are tasks of one thread.
  template <class F>
  void multiply_panel(const Linear& linear, const Inputs& x, int panel, int block, const uint32_t* next,
                      int thread, F emit) const {
    const Block tiles(x, block);
    float* sums = scratch(thread);
    linear.multiply(panel, x, tiles.first, tiles.count, sums, block_of(thread), next);
    const int columns = std::min(PANEL, linear.outputs - panel * PANEL);
    for (int row = tiles.first * x.tile; row < tiles.end_row; row++, sums += PANEL) {
      expand(linear, row, panel, sums);
      emit(row, panel * PANEL, columns, sums);
    }
  }

  // The same of act(x G') * (x U'): both products in one task, so that neither is ever stored.
  void gate_panel(const Linear& gates, const Linear& ups, const Inputs& x, int panel, int block,
                  const uint32_t* next, bool by_gelu, int thread, float* to) const {
    const Block tiles(x, block);
    float* gate = scratch(thread);
    float* up = gate + BLOCK_TILES * MAX_TILE * PANEL;
    gates.multiply(panel, x, tiles.first, tiles.count, gate, block_of(thread), ups.panel(panel));
    ups.multiply(panel, x, tiles.first, tiles.count, up, block_of(thread), next);
    const int columns = std::min(PANEL, gates.outputs - panel * PANEL);
    for (int row = tiles.first * x.tile; row < tiles.end_row; row++, gate += PANEL, up += PANEL) {
      expand(gates, row, panel, gate);
      expand(ups, row, panel, up);
      for (int half = 0; half < PANEL; half += W) {
        const Floats g = load<Floats>(gate + half);
        const Floats active = by_gelu ? gelu(g) : silu(g);
        store(gate + half, active * load<Floats>(up + half));
      }
      copy(gate, columns, to + size_t(row) * gates.outputs + panel * PANEL);
    }
  }

  // A x of the rows that have an adapter, for a layer and those that share its input, which is
  // normed first where it is when the layer gets it.
  void reduce(const Linear& linear, const float* from, const float* weight, int thread) {
    if (plan_.adapted.empty() || linear.reductions.empty()) return;
    const int parts = (most_ranks_ + RANKS - 1) / RANKS, inputs = linear.inputs;
    team_.each(plan_.adapted.size() * parts, [&](int task) {
      const int row = plan_.adapted[task / parts], first = task % parts * RANKS;
      const size_t adapter = plan_.adapter_of[row];
      if (adapter >= linear.reductions.size()) return;
      const Reduction& reduction = linear.reductions[adapter];
      if (first >= reduction.rank) return;
      const float* values = from + size_t(row) * inputs;
      if (weight) {
        float* normed_row = scratch(thread);
        norm_row(values, weight, inputs, eps_, normed_row);
        values = normed_row;
      }
      reduction.apply(values, inputs, first, std::min(RANKS, reduction.rank - first), reduced_of(row));
    });
  }

 private:
  // Tiles of inputs that share what is read of the weights.
  struct Block {
    int first, count, end_row;

    Block(const Inputs& x, int index)
        : first(index * BLOCK_TILES), count(std::min(BLOCK_TILES, x.tiles() - first)),
          end_row(std::min((first + count) * x.tile, x.rows)) {}
  };

  // Every thread shapes the inputs for itself, which needs no barrier.
  const Inputs& shape_inputs(Kind kind, int rows, int width, int thread) {
    Inputs& mine = packed_[thread];
    mine.shape(kind, rows, width);
    memory_.place(mine);
    return mine;
  }

  // Add what a row's adapter gives to a panel of its sums.
  void expand(const Linear& linear, int row, int panel, float* sums) const {
    if (linear.expansions.empty() || plan_.adapted.empty()) return;
    const size_t adapter = plan_.adapter_of[row];  // -1 becomes the largest of all
    if (adapter >= linear.expansions.size()) return;
    for (const Expansion& expansion : linear.expansions[adapter])
      expansion.apply(reduced_of(row), panel, sums);
  }

  float* reduced_of(int row) const { return reduced_.as<float>() + size_t(row) * most_ranks_; }

  float* block_of(int thread) const { return scratch(thread) + 2 * BLOCK_TILES * MAX_TILE * PANEL; }

  Team& team_;
  const Plan& plan_;
  const float eps_;
  std::vector<Memory> scratch_;  // per thread
  std::vector<Inputs> packed_;   // per thread, the same for all
  InputMemory memory_;
  Memory reduced_;  // [rows][most_ranks]
  int most_ranks_ = 0;
};

}  // namespace
