// What attention reads and writes: a task's queries, and paged KV (Kwon et al., "PagedAttention",
// SOSP 2023).

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "vectors.h"

namespace {

constexpr int CHUNK = 64;  // KV slots that are scored before they are weighed

// The queries of a task: `tokens` tokens of a sequence, `group` heads each, that share a KV head.
struct Queries {
  const float* query;  // of the first token and head
  float* out;
  int tokens, group, head_dim, value_dim;
  size_t query_stride, out_stride;  // from token to token
  int first_position, window;  // window: positions that a token sees, 0 for all
  float scale, cap;  // of scores; cap: 0 for none
  int all = 0;       // positions that every token sees; 0: those up to its own
  bool headless = false;  // only the first token sees position 0

  int rows() const { return tokens * group; }
  const float* of(int row) const { return query + row / group * query_stride + row % group * head_dim; }
  float* to(int row) const { return out + row / group * out_stride + row % group * value_dim; }
  // A row sees positions [from, sees).
  int sees(int row) const { return all ? all : first_position + row / group + 1; }
  int from(int row) const {
    const int first = headless && sees(row) > 1;
    return window ? std::max(first, sees(row) - window) : first;
  }
  int begin() const { return from(0) / CHUNK * CHUNK; }  // chunks lie where they lie for everyone
  int total() const { return sees(rows() - 1); }
};

// Where a sequence's KV for one KV head lies in the slot-major pool. Bytes have scales, which lie by
// block, then by head: [blocks][kv_heads][block_size].
template <class T>
struct Cache {
  static constexpr bool SCALED = sizeof(T) == 1;

  // Of a chunk: how many, and where they lie. The last is repeated until there are whole vectors.
  struct Slots {
    int count = 0;
    size_t at[CHUNK];
    size_t scale_at[SCALED ? CHUNK : 1];  // of no use where nothing is scaled
  };

  const T *keys, *values;
  const int32_t* blocks;
  int block_size;
  size_t stride;  // from slot to slot
  const float *key_scales = nullptr, *value_scales = nullptr;  // of this head in the first block
  int kv_heads = 1;

  // The slots of the chunk that begins at position `start`, up to `total` positions.
  Slots slots(int start, int total) const {
    Slots found;
    found.count = std::min(CHUNK, total - start);
    int block = start / block_size, offset = start % block_size;
    for (int c = 0; c < found.count; block++, offset = 0) {
      size_t at = (size_t(blocks[block]) * block_size + offset) * stride;
      size_t scale_at = size_t(blocks[block]) * kv_heads * block_size + offset;
      for (; offset < block_size && c < found.count; offset++, c++, at += stride, scale_at++) {
        found.at[c] = at;
        if constexpr (SCALED) found.scale_at[c] = scale_at;
      }
    }
    for (int c = found.count; c % W; c++) {
      found.at[c] = found.at[c - 1];
      if constexpr (SCALED) found.scale_at[c] = found.scale_at[c - 1];
    }
    return found;
  }
};

}  // namespace
