// A chunk of KV, packed for products of tiles in float32, whatever it is stored in.

#pragma once

#include <bit>
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
class Packing {
  using Slots = typename Cache<T>::Slots;

 public:
  Packing(const Cache<T>& cache, const Slots& slots, const Cache<T>& later, const Slots& later_slots)
      : cache_(cache), later_(later), slots_(slots), later_slots_(later_slots) {}

  // to[slot / PANEL][d][slot % PANEL]: transposed. Slots behind the last are never looked at.
  void keys(int dim, float* to) const {
    for (int c = 0; c < slots_.count; c += W) {
      const T* rows[W];
      for (int i = 0; i < W; i++) rows[i] = cache_.keys + slots_.at[c + i];
      keys_of(rows, scales_of(cache_.key_scales, later_.key_scales, c), dim, c,
              to + size_t(c / PANEL) * dim * PANEL + c % PANEL);
    }
  }

  // to[d / PANEL][slot][d % PANEL]; columns behind the last are never looked at.
  void values(int dim, float* to) const {
    for (int first = 0; first < slots_.count; first += W) {
      const Scales scales = scales_of(cache_.value_scales, later_.value_scales, first);
      int d = 0;
      for (; d + W <= dim; d += W) {
        if (d % LINE == 0) fetch(later_.values, first, d);
        float* column = to + panel_of(first, d);
#pragma GCC unroll 16
        for (int i = 0; i < W; i++)
          store(column + i * PANEL, scales.of(i, load_floats(cache_.values + slots_.at[first + i] + d)));
      }
      for (; d < dim; d++)
        for (int i = 0; i < W; i++)
          to[panel_of(first + i, d)] = scales.of(i, value_of(cache_.values[slots_.at[first + i] + d]));
    }
  }

 private:
  static constexpr bool SCALED = Cache<T>::SCALED;
  static constexpr int LINE = 64 / sizeof(T);

  struct Scales {  // of W slots; of no use where nothing is scaled
    alignas(64) float each[W];

    auto of(int slot, auto stored) const {
      if constexpr (SCALED)
        return stored * each[slot];
      else
        return stored;
    }
    Floats of_all(Floats stored) const {  // a number of each slot
      if constexpr (SCALED)
        return stored * load<Floats>(each);
      else
        return stored;
    }
  };

  static size_t panel_of(int c, int d) { return (size_t(d / PANEL) * CHUNK + c) * PANEL + d % PANEL; }

  void keys_of(const T* const (&rows)[W], const Scales& scales, int dim, int c, float* to) const {
    int d = 0;
    if constexpr (SCALED)
      for (; d + 4 * W <= dim; d += 4 * W) {  // four bytes at a time change places together
        Floats square[W];
#pragma GCC unroll 16
        for (int i = 0; i < W; i++) square[i] = load<Floats>(rows[i] + d);
        if (d % LINE == 0) fetch(later_.keys, c, d);
        transpose(square, std::make_integer_sequence<int, W>());
#pragma GCC unroll 16
        for (int i = 0; i < W; i++)
          for (int byte = 0; byte < 4; byte++)
            store(to + (d + 4 * i + byte) * PANEL, scales.of_all(byte_of(square[i], byte)));
      }
    for (; d + W <= dim; d += W) {
      Floats square[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; i++) square[i] = load_floats(rows[i] + d);
      if (d % LINE == 0) fetch(later_.keys, c, d);
      transpose(square, std::make_integer_sequence<int, W>());
#pragma GCC unroll 16
      for (int i = 0; i < W; i++) store(to + (d + i) * PANEL, scales.of_all(square[i]));
    }
    for (; d < dim; d++)
      for (int i = 0; i < W; i++) to[d * PANEL + i] = scales.of(i, value_of(rows[i][d]));
  }

  // The scales of W slots; those of later ones are fetched. They lie beside each other, in a line or
  // two, unless blocks are smaller than that.
  Scales scales_of(const float* from, const float* later, int first) const {
    Scales found;
    if constexpr (SCALED) {
      for (int i = 0; i < W; i++) found.each[i] = from[slots_.scale_at[first + i]];
      if (first < later_slots_.count) {
        __builtin_prefetch(later + later_slots_.scale_at[first]);
        __builtin_prefetch(later + later_slots_.scale_at[first + W - 1]);
      }
    }
    return found;
  }

  // Fetch one line of each of W slots.
  void fetch(const T* from, int first, int d) const {
    if (first >= later_slots_.count) return;
#pragma GCC unroll 16
    for (int i = 0; i < W; i++) __builtin_prefetch(from + later_slots_.at[first + i] + d);
  }

  const Cache<T>&cache_, &later_;
  const Slots&slots_, &later_slots_;
};

}  // namespace
