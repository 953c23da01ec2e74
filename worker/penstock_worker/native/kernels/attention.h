// Attention over chunks of paged KV, with an online softmax (Dao et al., "FlashAttention", 2022).

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "cache.h"
#include "functions.h"
#include "packing.h"
#include "softmax.h"
#include "tiles.h"
#include "vectors.h"
#include "words.h"

namespace {

// A chunk's keys and values are packed as panels, and scores and outputs are products of tiles, as
// in a linear layer. Decoding takes the same way, though packing costs it as much as it gains: so a
// token's numbers are the same to the last bit, whatever is computed with it. A request that is
// resumed elsewhere, preempted, or cut into other chunks gives the tokens it would have given.
class Attention {
 public:
  static size_t scratch_bytes(int head_dim, int value_dim, int rows) {
    const size_t wide = padded(value_dim), high = rows + MAX_TILE;
    return 4 * (CHUNK * (head_dim + 2 * wide) + high * (head_dim + wide + 2) + MAX_TILE * CHUNK) + 1024;
  }

  // `next` is what this thread will probably turn to after this: its KV is fetched meanwhile.
  template <class T>
  static void attend(const Queries& q, const Cache<T>& cache, const Queries& next,
                     const Cache<T>& next_cache, float* scratch) {
    Attention(q, scratch).run(q, cache, next, next_cache);
  }

 private:
  static int padded(int value_dim) { return (value_dim + PANEL - 1) / PANEL * PANEL; }

  Attention(const Queries& q, float* scratch) : dim_(q.head_dim), value_dim_(q.value_dim), wide_(padded(q.value_dim)) {
    tile_ = tile_rows(q.rows());
    tiles_ = (q.rows() + tile_ - 1) / tile_;
    auto take = [&](size_t count) { return std::exchange(scratch, scratch + (count + 15) / 16 * 16); };
    keys_ = take(size_t(CHUNK) * dim_);               // [CHUNK / PANEL][dim][PANEL]
    values_ = take(size_t(CHUNK) * wide_);            // [wide / PANEL][CHUNK][PANEL]
    queries_ = take(size_t(tiles_) * dim_ * tile_);   // [tile][dim][row]
    outputs_ = take(size_t(tiles_) * tile_ * wide_);  // [tile][wide / PANEL][row][PANEL]
    scores_ = take(size_t(tile_) * CHUNK);            // [row][CHUNK]: of a tile; then its weights
    states_ = reinterpret_cast<Softmax*>(take(2 * size_t(tiles_) * tile_));
  }

  template <class T>
  void run(const Queries& q, const Cache<T>& cache, const Queries& next, const Cache<T>& next_cache) {
    begin(q);
    const int total = q.total();
    auto slots = cache.slots(q.begin(), total);
    for (int start = q.begin(); start < total; start += CHUNK) {
      const bool last = start + CHUNK >= total;
      const Cache<T>& later = last ? next_cache : cache;
      const auto later_slots = last ? later.slots(next.begin(), next.total()) : later.slots(start + CHUNK, total);
      const Packing<T> packing(cache, slots, later, later_slots);
      packing.keys(dim_, keys_);
      packing.values(value_dim_, values_);
      for (int t = 0; t < tiles_; t++) absorb(q, t, start, slots.count);
      slots = later_slots;
    }
    finish(q);
  }

  void begin(const Queries& q) {
    for (int row = 0; row < tiles_ * tile_; row++) {
      float* to = queries_ + size_t(row / tile_) * dim_ * tile_ + row % tile_;
      const float* from = q.of(std::min(row, q.rows() - 1));
      for (int d = 0; d < dim_; d++) to[d * tile_] = from[d] * q.scale;
      states_[row] = Softmax{};
    }
    std::fill(outputs_, outputs_ + size_t(tiles_) * tile_ * wide_, 0.0f);
  }

  void absorb(const Queries& q, int t, int start, int count) {
    if (q.sees(std::min((t + 1) * tile_, q.rows()) - 1) <= start) return;  // all of it is ahead
    if (q.from(t * tile_) >= start + CHUNK) return;                        // or out of sight
    const Tile score = tile_of<Float32>(tile_), weigh = tile_of<Float32, CHUNK>(tile_);
    const auto* query = reinterpret_cast<uint32_t*>(queries_ + size_t(t) * dim_ * tile_);
    float* out = outputs_ + size_t(t) * tile_ * wide_;
    for (int p = 0; p * PANEL < count; p++) {
      alignas(64) float part[MAX_TILE * PANEL];
      score(query, reinterpret_cast<uint32_t*>(keys_ + size_t(p) * dim_ * PANEL), dim_, part, true, here());
      for (int r = 0; r < tile_; r++)
        std::memcpy(scores_ + r * CHUNK + p * PANEL, part + r * PANEL, PANEL * 4);
    }
    for (int r = 0; r < tile_; r++) weigh_row(q, t * tile_ + r, r, start, out);
    for (int p = 0; p < wide_ / PANEL; p++)
      weigh(reinterpret_cast<uint32_t*>(scores_),
            reinterpret_cast<uint32_t*>(values_ + size_t(p) * CHUNK * PANEL), count,
            out + size_t(p) * tile_ * PANEL, false, here());
  }

  // Nothing to fetch: keys and values were packed a moment ago.
  Ahead here() const { return {reinterpret_cast<const char*>(keys_), 0}; }

  void weigh_row(const Queries& q, int row, int r, int start, float* out) {
    const int seen = row < q.rows() ? std::min(CHUNK, q.sees(row) - start) : 0;
    const int from = row < q.rows() ? std::max(0, q.from(row) - start) : 0;
    float* scores = scores_ + r * CHUNK;
    if (seen <= from) {
      std::fill(scores, scores + CHUNK, 0.0f);
      return;
    }
    if (q.cap > 0)
      for (int c = 0; c < CHUNK; c += W) store(scores + c, capped(load<Floats>(scores + c), q.cap));
    const float keep = states_[row].absorb(scores, from, seen);
    if (keep != 1.0f)
      for (int p = 0; p < wide_ / PANEL; p++)
        for (int d = 0; d < PANEL; d++) out[(size_t(p) * tile_ + r) * PANEL + d] *= keep;
  }

  void finish(const Queries& q) {
    for (int row = 0; row < q.rows(); row++) {
      float* from = outputs_ + size_t(row / tile_) * tile_ * wide_ + row % tile_ * PANEL;
      float* to = q.to(row);
      for (int d = 0; d < value_dim_; d += PANEL, from += size_t(tile_) * PANEL) {
        for (int half = 0; half < PANEL; half += W)
          store(from + half, load<Floats>(from + half) / states_[row].total);
        copy(from, std::min(PANEL, value_dim_ - d), to + d);
      }
    }
  }

  int dim_, value_dim_, wide_, tile_ = 1, tiles_ = 1;
  float *keys_, *values_, *queries_, *outputs_, *scores_;
  Softmax* states_;
};

}  // namespace
