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
};

struct Plan {
  std::vector<Piece> pieces;
  std::vector<AttentionTask> tasks;
  std::vector<int> adapted;     // rows that have an adapter
  std::vector<int> adapter_of;  // by row; of use where there are adapted rows

  // Cut the sequences to rows [first, first + rows) of a step.
  void cut(const PenstockShape& shape, const PenstockStep& asked, int first, int rows) {
    pieces.clear();
    tasks.clear();
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
    for (const Piece& piece : pieces) cut_attention(shape, piece, heads);
  }

 private:
  // All heads that share a KV head, unless that would leave threads without work.
  int heads_of_task(const PenstockShape& shape) const {
    const int group = shape.heads / shape.kv_heads;
    const int parts = std::max<int>(1, shape.threads / std::max<int>(1, pieces.size() * shape.kv_heads));
    return std::min(group, std::max(FEW_HEADS, (group + parts - 1) / parts));
  }

  void cut_attention(const PenstockShape& shape, const Piece& piece, int heads) {
    const int group = shape.heads / shape.kv_heads, most = std::max(1, MANY_ROWS / heads);
    for (int token = 0; token < piece.tokens; token += most)
      for (int head = 0; head < shape.heads; head += std::min(heads, group - head % group))
        tasks.push_back({piece.sequence, piece.row + token, std::min(most, piece.tokens - token),
                         piece.position + token, head, std::min(heads, group - head % group)});
  }
};

}  // namespace
