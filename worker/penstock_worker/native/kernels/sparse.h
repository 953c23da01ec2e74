// A layer of experts by a team of threads: rows are sorted by expert, so that the weights of an
// expert are read once for all rows that chose it.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "experts.h"
#include "inputs.h"
#include "linear.h"
#include "memory.h"
#include "products.h"
#include "rows.h"
#include "team.h"
#include "vectors.h"

namespace {

// A row's experts are added in their order, whatever is computed beside it, and the sums of a tile do
// not depend on its other rows: so its bits do not, either.
class Sparse {
 public:
  Sparse(Team& team, Products& products, int width, float eps, bool by_gelu)
      : team_(team), products_(products), width_(width), eps_(eps), by_gelu_(by_gelu) {}

  // Make room for the rows of a pass.
  void reserve(const Experts& experts, int rows) {
    const size_t pairs = size_t(rows) * experts.slots(), outputs = experts.router.outputs;
    // Rows of a group are padded to its tiles: by less than one for each tile.
    const size_t padded = pairs + pairs / MAX_TILE + experts.all.size();
    const size_t widest = std::max({width_, experts.inner, experts.shared_inner});
    normed_.reserve(size_t{4} * rows * width_);
    scores_.reserve(size_t{4} * rows * Experts::ROOM * outputs);
    chosen_.reserve(size_t{4} * pairs);
    weights_.reserve(size_t{4} * pairs);
    inner_.reserve(size_t{4} * rows * experts.inner_of_token());
    packed_.reserve(size_t{4} * padded * widest);
    scales_.reserve(size_t{4} * padded);
    products_.reserve(experts.router.kind, rows, width_);
    pairs_.reserve(pairs);
    const size_t groups = std::min(pairs, experts.all.size());
    ends_.reserve(experts.all.size() + 1);
    groups_.reserve(groups);
    tiles_.reserve(pairs / MAX_TILE + groups);
    gates_.reserve((pairs / (BLOCK_TILES * MAX_TILE) + groups) * most_panels(experts));
  }

  // x += what the experts make of its rows, normed. By every thread of the team.
  void add(const Experts& experts, const float* norm, float* x, int rows, int thread) {
    route(experts, norm, x, rows, thread);
    team_.each(1, [&](int) { sort(experts, rows); });
    team_.each(tiles_.size(), [&](int index) { pack_normed(tiles_[index], thread); });
    team_.each(gates_.size(), [&](int index) { gate(index, thread); });
    team_.each(1, [&](int) { shape_activations(); });
    team_.each(tiles_.size(), [&](int index) { pack_activations(tiles_[index]); });
    team_.each((width_ + PANEL - 1) / PANEL, [&](int panel) { add_panel(panel, x, thread); });
  }

 private:
  struct Pair {
    int row;
    float weight;
  };
  struct Group {  // the rows of an expert
    const Expert* expert;
    const Pair* pairs;
    float* inner;
    Inputs inputs;
  };
  struct TileTask {
    int group, tile;
  };
  struct GateTask {
    int group, block, panel;
  };

  static size_t most_panels(const Experts& experts) {
    return (std::max(experts.inner, experts.shared_inner) + PANEL - 1) / PANEL;
  }

  float* normed(int row) const { return normed_.as<float>() + size_t(row) * width_; }

  // Norm the rows, and choose their experts.
  void route(const Experts& experts, const float* norm, const float* x, int rows, int thread) {
    const int outputs = experts.router.outputs, slots = experts.slots();
    float* scores = scores_.as<float>();
    team_.each(rows, [&](int row) { norm_row(x + size_t(row) * width_, norm, width_, eps_, normed(row)); });
    products_.pack(normed_.as<float>(), width_, experts.router.kind, rows, thread);
    products_.multiply(experts.router, thread, [&](int row, int column, int count, const float* y) {
      copy(y, count, scores + size_t(row) * Experts::ROOM * outputs + column);
    });
    team_.each(rows, [&](int row) {
      float* mine = scores + size_t(row) * Experts::ROOM * outputs;
      experts.choose(mine, chosen_.as<int32_t>() + size_t(row) * slots,
                     weights_.as<float>() + size_t(row) * slots);
    });
  }

  // Sort (row, expert) by expert, and list the tasks of those that have rows.
  void sort(const Experts& experts, int rows) {
    const int slots = experts.slots(), pairs = rows * slots;
    const int32_t* chosen = chosen_.as<int32_t>();
    ends_.assign(experts.all.size() + 1, 0);
    for (int i = 0; i < pairs; i++) ends_[chosen[i] + 1]++;
    for (size_t e = 1; e < ends_.size(); e++) ends_[e] += ends_[e - 1];
    pairs_.resize(pairs);
    for (int i = 0; i < pairs; i++) pairs_[ends_[chosen[i]]++] = {i / slots, weights_.as<float>()[i]};
    groups_.clear();
    float* inner = inner_.as<float>();
    for (size_t e = 0, first = 0; e < experts.all.size(); first = ends_[e++]) {
      const int count = ends_[e] - first;
      if (!count) continue;
      groups_.push_back({&experts.all[e], &pairs_[first], inner, {}});
      groups_.back().inputs.shape(experts.all[e].gate.kind, count, width_);
      inner += size_t(count) * experts.inner_of(e);
    }
    place_inputs();
    list_tasks();
  }

  void shape_activations() {
    for (Group& group : groups_) {
      const Linear& down = group.expert->down;
      group.inputs.shape(down.kind, group.inputs.rows, down.inputs);
    }
    place_inputs();
  }

  // Give every group its part of the memory for packed inputs.
  void place_inputs() {
    uint32_t* data = packed_.as<uint32_t>();
    float* scales = scales_.as<float>();
    for (Group& group : groups_) {
      group.inputs.data = data;
      group.inputs.scales = scales;
      data += group.inputs.size();
      scales += group.inputs.padded_rows();
    }
  }

  void list_tasks() {
    tiles_.clear();
    gates_.clear();
    for (int g = 0; g < static_cast<int>(groups_.size()); g++) {
      const Group& group = groups_[g];
      for (int tile = 0; tile < group.inputs.tiles(); tile++) tiles_.push_back({g, tile});
      for (int block = 0; block < group.inputs.blocks(); block++)
        for (int panel = 0; panel < group.expert->gate.panels(); panel++) gates_.push_back({g, block, panel});
    }
  }

  void pack_normed(const TileTask& task, int thread) {
    const Group& group = groups_[task.group];
    const int first = task.tile * group.inputs.tile;
    const int count = std::min(group.inputs.tile, group.inputs.rows - first);
    float* gathered = products_.scratch(thread);
    for (int r = 0; r < count; r++)
      std::memcpy(gathered + size_t(r) * width_, normed(group.pairs[first + r].row), size_t{4} * width_);
    group.inputs.pack(task.tile, gathered, width_, width_);
  }

  void gate(int index, int thread) {
    const GateTask& task = gates_[index];
    const GateTask& later = gates_[std::min<size_t>(index + team_.size(), gates_.size() - 1)];
    const Group& group = groups_[task.group];
    products_.gate_panel(group.expert->gate, group.expert->up, group.inputs, task.panel, task.block,
                         groups_[later.group].expert->gate.panel(later.panel), by_gelu_, thread, group.inner);
  }

  void pack_activations(const TileTask& task) {
    const Group& group = groups_[task.group];
    const int width = group.expert->down.inputs;
    group.inputs.pack(task.tile, group.inner + size_t(task.tile) * group.inputs.tile * width, width, width);
  }

  // A panel of what all experts give, which one thread adds up: so their order is always the same.
  void add_panel(int panel, float* x, int thread) {
    for (size_t g = 0; g < groups_.size(); g++) {
      const Group& group = groups_[g];
      const bool last = g + 1 == groups_.size();
      const uint32_t* next = last ? groups_[0].expert->down.panel(panel + team_.size())
                                  : groups_[g + 1].expert->down.panel(panel);
      for (int block = 0; block < group.inputs.blocks(); block++)
        products_.multiply_panel(group.expert->down, group.inputs, panel, block, next, thread,
                                 [&](int row, int column, int count, const float* y) {
                                   const Pair& pair = group.pairs[row];
                                   float* to = x + size_t(pair.row) * width_ + column;
                                   for (int i = 0; i < count; i++) to[i] += pair.weight * y[i];
                                 });
    }
  }

  Team& team_;
  Products& products_;
  const int width_;
  const float eps_;
  const bool by_gelu_;
  Memory normed_, scores_, chosen_, weights_;  // by row
  Memory inner_, packed_, scales_;             // by group
  std::vector<int> ends_;                      // of the experts' pairs
  std::vector<Pair> pairs_;
  std::vector<Group> groups_;
  std::vector<TileTask> tiles_;
  std::vector<GateTask> gates_;
};

}  // namespace
