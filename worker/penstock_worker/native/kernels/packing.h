// A chunk of KV, packed for products of tiles in float32, whatever it is stored in.

#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "bfloat16.h"
#include "bytes.h"
#include "cache.h"
#include "vectors.h"

namespace {

// What comes later is fetched line by line meanwhile, so that memory never has too much to do, nor
// nothing. Slots are read side by side: a processor fetches many short streams faster than one.
template <class T>
struct Packing {
  const Cache<T>&cache, &later;
  const Slots&slots, &later_slots;

  static constexpr int LINE = 64 / sizeof(T);
  static constexpr bool SCALED = Cache<T>::SCALED;

  // to[slot / PANEL][d][slot % PANEL]: transposed. Slots behind the last are never looked at.
  void keys(int dim, float* keys) const {
    for (int c = 0; c < slots.count; c += W) {
      float* to = keys + size_t(c / PANEL) * dim * PANEL + c % PANEL;
      const T* row[W];
      Floats scales = {};
      for (int i = 0; i < W; i++) {
        const int slot = std::min(c + i, slots.count - 1);
        row[i] = cache.keys + slots.at[slot];
        if constexpr (SCALED) scales[i] = cache.key_scales[slots.scale_at[slot]];
      }
      if constexpr (SCALED) fetch_scales(later.key_scales, c);
      int d = 0;
      for (; d + W <= dim; d += W) {
        Floats rows[W];
#pragma GCC unroll 16
        for (int i = 0; i < W; i++) rows[i] = load_floats(row[i] + d);
        if (d % LINE == 0) fetch(later.keys, c, d);
        transpose(rows, std::make_integer_sequence<int, W>());
#pragma GCC unroll 16
        for (int i = 0; i < W; i++) store(to + (d + i) * PANEL, SCALED ? rows[i] * scales : rows[i]);
      }
      for (; d < dim; d++)
        for (int i = 0; i < W; i++) to[d * PANEL + i] = value_of(row[i][d]) * (SCALED ? scales[i] : 1.0f);
    }
  }

  // to[d / PANEL][slot][d % PANEL]; columns behind the last are never looked at.
  void values(int dim, float* values) const {
    for (int first = 0; first < slots.count; first += W) {
      const int end = std::min(first + W, slots.count);
      float scales[W];
      if constexpr (SCALED) {
        for (int c = first; c < end; c++) scales[c - first] = cache.value_scales[slots.scale_at[c]];
        fetch_scales(later.value_scales, first);
      }
      int d = 0;
      for (; d + W <= dim; d += W) {
        if (d % LINE == 0) fetch(later.values, first, d);
        float* to = values + panel_of(first, d);
        for (int c = first; c < end; c++, to += PANEL) {
          const Floats found = load_floats(cache.values + slots.at[c] + d);
          store(to, SCALED ? found * scales[c - first] : found);
        }
      }
      for (; d < dim; d++)
        for (int c = first; c < end; c++)
          values[panel_of(c, d)] = value_of(cache.values[slots.at[c] + d]) * (SCALED ? scales[c - first] : 1.0f);
    }
  }

 private:
  static size_t panel_of(int c, int d) { return (size_t(d / PANEL) * CHUNK + c) * PANEL + d % PANEL; }

  // Fetch one line of each of W slots.
  void fetch(const T* from, int first, int d) const {
    const int end = std::min(first + W, later_slots.count);
    for (int c = first; c < end; c++) __builtin_prefetch(from + later_slots.at[c] + d);
  }

  // Those of W slots lie beside each other, in one line or two, unless blocks are smaller than that.
  void fetch_scales(const float* from, int first) const {
    if (first >= later_slots.count) return;
    __builtin_prefetch(from + later_slots.scale_at[first]);
    __builtin_prefetch(from + later_slots.scale_at[std::min(first + W, later_slots.count) - 1]);
  }
};

}  // namespace
