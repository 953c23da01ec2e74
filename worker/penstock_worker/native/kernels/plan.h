// How a pass is cut into what threads take: pieces of sequences and tasks of attention.

#pragma once

#include <algorithm>
#include <vector>

#include "interface.h"

namespace {

constexpr int MANY_ROWS = 128;  // queries of a task, that share what was packed
constexpr int FEW_HEADS = 8;    // that no thread packs KV for alone

struct Piece {  // of a sequence, within a pass
  int sequence, row, tokens, position;
};

struct AttentionTask {
  int sequence, row, tokens, position;
  int head, heads;  // query heads that share a KV head
  bool chooses = false;  // its one token reads the blocks that it chooses
};

struct Part {  // of a pass's rows, and of the tasks of attention
  int row, rows, task, tasks;
};

struct Plan {
  std::vector<Piece> pieces;
  std::vector<AttentionTask> tasks;  // by row
  std::vector<AttentionTask> sparse;  // in place of them, of layers that have bounds
  std::vector<Part> parts;           // attended one after the other
  std::vector<int> adapted;     // rows that have an adapter
  std::vector<int> adapter_of;  // by row; of use where there are adapted rows

  // Cut the sequences to rows [first, first + rows) of a step, and those to parts of `part_rows`.
  void cut(const PenstockShape& shape, const PenstockStep& asked, int first, int rows, int part_rows) {
    pieces.clear();
    tasks.clear();
    sparse.clear();
    adapted.clear();
    if (asked.adapters) adapter_of.assign(rows, -1);
    for (int s = 0; s < asked.sequences; s++) {
      const int from = std::max(first, asked.first_row[s]);
      const int to = std::min(first + rows, asked.first_row[s] + asked.count[s]);
      if (from >= to) continue;
      const int position = asked.computed[s] + from - asked.first_row[s];
      pieces.push_back({s, from - first, to - from, position});
      if (asked.adapters && asked.adapters[s] >= 0)
        for (int row = from - first; row < to - first; row++) {
          adapter_of[row] = asked.adapters[s];
          adapted.push_back(row);
        }
    }
    const int heads = heads_of_task(shape);
    parts.clear();
    for (int row = 0; row < rows; row += part_rows) parts.push_back({row, std::min(part_rows, rows - row), 0, 0});
    for (const Piece& piece : pieces) cut_attention(shape, piece, heads, part_rows);
    if (shape.sparse_blocks)
      for (const Piece& piece : pieces) cut_sparse(shape, piece, heads, asked.prompts[piece.sequence]);
    for (size_t p = 1; p < parts.size(); p++) parts[p].task = parts[p - 1].task + parts[p - 1].tasks;
  }

 private:
  // All heads that share a KV head, unless that would leave threads without work.
  int heads_of_task(const PenstockShape& shape) const {
    const int group = shape.heads / shape.kv_heads;
    const int parts = std::max<int>(1, shape.threads / std::max<int>(1, pieces.size() * shape.kv_heads));
    return std::min(group, std::max(FEW_HEADS, (group + parts - 1) / parts));
  }

  void cut_attention(const PenstockShape& shape, const Piece& piece, int heads, int part_rows) {
    const int most = std::max(1, MANY_ROWS / heads);
    for (int token = 0, count; token < piece.tokens; token += count) {
      const int row = piece.row + token;
      count = std::min({most, piece.tokens - token, part_rows - row % part_rows});
      const size_t before = tasks.size();
      cut_heads(shape, {piece.sequence, row, count, piece.position + token, 0, 0}, heads, tasks);
      parts[row / part_rows].tasks += tasks.size() - before;
    }
  }

  // A token of the answer that sees more blocks than it reads is a task by itself: it chooses.
  void cut_sparse(const PenstockShape& shape, const Piece& piece, int heads, int prompt) {
    const int first = std::max(prompt, shape.sparse_blocks * shape.block_size);  // position that chooses
    const int dense = std::clamp(first - piece.position, 0, piece.tokens), most = std::max(1, MANY_ROWS / heads);
    for (int token = 0, count; token < piece.tokens; token += count) {
      const bool chooses = token >= dense;
      count = chooses ? 1 : std::min(most, dense - token);
      cut_heads(shape, {piece.sequence, piece.row + token, count, piece.position + token, 0, 0, chooses}, heads, sparse);
    }
  }

  void cut_heads(const PenstockShape& shape, AttentionTask task, int heads, std::vector<AttentionTask>& to) {
    const int group = shape.heads / shape.kv_heads;
    for (task.head = 0; task.head < shape.heads; task.head += task.heads) {
      task.heads = std::min(heads, group - task.head % group);
      to.push_back(task);
    }
  }
};

}  // namespace
