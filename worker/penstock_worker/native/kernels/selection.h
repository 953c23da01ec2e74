// Which blocks of KV a token of an answer attends to (Tang et al., "Quest", ICML 2024).
//
// Of each full block the smallest and largest number in each place of its keys are kept: its bounds. No
// key of the block has a larger product with a query than the bounds allow, so the blocks that allow
// most are read, and no others. A block gets its bounds from the keys as they are stored, when its last
// one is: they depend on the block alone, and so does a token's choice on that token alone. The block
// that a token lies in is not full for it, and needs none: it is read anyway.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "bfloat16.h"
#include "functions.h"
#include "interface.h"
#include "memory.h"
#include "pool.h"
#include "vectors.h"

namespace {

constexpr int SINKS = 1;   // first blocks, which are always read: attention sinks
constexpr int RECENT = 2;  // last ones, the token's own among them

// The bounds of a block for one KV head: [smallest, largest][head_dim].
template <class T>
T* bounds_of(const PenstockShape& shape, const PenstockLayer& layer, size_t block, size_t head) {
  return static_cast<T*>(layer.bounds) + (block * shape.kv_heads + head) * 2 * shape.head_dim;
}

template <class T>
void bound_as(const PenstockShape& shape, const PenstockLayer& layer, size_t block) {
  const int dim = shape.head_dim;
  const size_t width = size_t(shape.kv_heads) * dim;
  for (int head = 0; head < shape.kv_heads; head++) {
    const T* keys = static_cast<const T*>(layer.keys) + block * shape.block_size * width + size_t(head) * dim;
    T* smallest = bounds_of<T>(shape, layer, block, head);
    T* largest = smallest + dim;
    std::copy(keys, keys + dim, smallest);
    std::copy(keys, keys + dim, largest);
    for (int slot = 1; slot < shape.block_size; slot++) {
      const T* key = keys + slot * width;
      for (int d = 0; d < dim; d++) {
        const float value = value_of(key[d]);
        if (value < value_of(smallest[d])) smallest[d] = key[d];
        if (value > value_of(largest[d])) largest[d] = key[d];
      }
    }
  }
}

// Find the bounds of a block that is full.
inline void bound(const PenstockShape& shape, const PenstockLayer& layer, size_t block) {
  if (static_cast<KvType>(shape.kv_type) == KvType::FLOAT32)
    bound_as<float>(shape, layer, block);
  else
    bound_as<uint16_t>(shape, layer, block);
}

// What a thread chooses blocks with.
class Selection {
 public:
  // Make room for block tables of so many columns.
  void reserve(const PenstockShape& shape, int columns) {
    queries_.reserve(size_t{8} * shape.heads / shape.kv_heads * shape.head_dim);
    scores_.reserve(sizeof(float) * columns);
    places_.reserve(sizeof(int32_t) * columns);
    chosen_.reserve(sizeof(int32_t) * shape.sparse_blocks);
  }

  // The blocks that a token reads for a KV head, in order, as many as there is a budget for; its table
  // must have more. All heads that share the KV head read what any of them asks for: to read a block
  // for one costs as much as for all.
  template <class T>
  const int32_t* choose(const PenstockShape& shape, const PenstockLayer& layer, const float* queries, int head,
                        const int32_t* table, int position) {
    const int own = position / shape.block_size, end = own + 1 - RECENT;
    const int count = shape.sparse_blocks - SINKS - RECENT;
    split(shape, queries);
    int32_t* places = places_.as<int32_t>();
    float* scores = scores_.as<float>();
    for (int place = SINKS; place < end; place++) {
      for (int d = 0; d < 2 * shape.head_dim; d += LINE<T>)
        __builtin_prefetch(bounds_of<T>(shape, layer, table[std::min(place + AHEAD, own)], head) + d);
      scores[place] = most(shape, bounds_of<T>(shape, layer, table[place], head));
      places[place - SINKS] = place;
    }
    // Of equal ones the first, so that there is one answer.
    const auto better = [&](int32_t a, int32_t b) { return scores[a] != scores[b] ? scores[a] > scores[b] : a < b; };
    std::nth_element(places, places + count, places + end - SINKS, better);
    std::sort(places, places + count);
    int32_t* chosen = chosen_.as<int32_t>();
    std::copy(table, table + SINKS, chosen);
    for (int i = 0; i < count; i++) chosen[SINKS + i] = table[places[i]];
    std::copy(table + end, table + own + 1, chosen + SINKS + count);
    return chosen;
  }

 private:
  static constexpr int AHEAD = 8;  // blocks whose bounds are fetched meanwhile
  template <class T>
  static constexpr int LINE = 64 / sizeof(T);

  // A query's negative numbers are largest with the smallest of a key, its positive ones with the
  // largest: beside each other they make the bound a single product.
  void split(const PenstockShape& shape, const float* queries) {
    const int dim = shape.head_dim, group = shape.heads / shape.kv_heads;
    float* to = queries_.as<float>();
    for (int h = 0; h < group; h++, queries += dim, to += 2 * dim)
      for (int d = 0; d < dim; d++) {
        to[d] = std::min(queries[d], 0.0f);
        to[dim + d] = std::max(queries[d], 0.0f);
      }
  }

  // The largest score that a head's query can have with a key inside of bounds. What is no number is
  // read like what is infinite: the choice must have an order.
  template <class T>
  float most(const PenstockShape& shape, const T* bounds) const {
    const int width = 2 * shape.head_dim, group = shape.heads / shape.kv_heads;
    float found = -INFINITY;
    for (int h = 0; h < group; h++) {
      const float score = dot(queries_.as<float>() + size_t(h) * width, bounds, width);
      found = std::isnan(score) ? INFINITY : std::max(found, score);
    }
    return found;
  }

  Memory queries_, scores_, places_, chosen_;
};

}  // namespace
