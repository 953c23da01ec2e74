// The innermost loop of every matrix product: a tile of sums that stay in registers (Goto & van de
// Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008).

#pragma once

#include <bit>
#include <cstdint>
#include <utility>

#include "vectors.h"

namespace {

// Which weights to fetch while a tile is computed: `step` bytes per word of the inner dimension.
// The processor's own prefetcher keeps too short a distance: without this, time for memory and time
// for arithmetic add up instead of overlapping.
struct Ahead {
  const char* from;
  int step;
};

using Tile = void (*)(const uint32_t*, const uint32_t*, int, float*, bool, Ahead);

// sums[R][PANEL] (+)= inputs . weights[words][PANEL]; all sums stay in registers. Inputs are packed,
// [words][R], or lie in R rows, ROW words apart.
template <class Op, int R, int ROW>
void tile(const uint32_t* a, const uint32_t* b, int words, float* sums, bool fresh, Ahead ahead) {
  typename Op::Sum left[R], right[R];
#pragma GCC unroll 16
  for (int i = 0; i < R; i++) {
    left[i] = fresh ? typename Op::Sum{} : load<typename Op::Sum>(sums + i * PANEL);
    right[i] = fresh ? typename Op::Sum{} : load<typename Op::Sum>(sums + i * PANEL + W);
  }
  for (int k = 0; k < words; k++, a += ROW ? 1 : R, b += PANEL, ahead.from += ahead.step) {
    __builtin_prefetch(ahead.from);
    __builtin_prefetch(ahead.from + ahead.step / 2);
    const Words b0 = load<Words>(b), b1 = load<Words>(b + W);
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
      const uint32_t word = a[ROW ? i * ROW : i];
      Op::add(left[i], word, b0);
      Op::add(right[i], word, b1);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; i++) {
    store(sums + i * PANEL, left[i]);
    store(sums + i * PANEL + W, right[i]);
  }
}

template <class Op, int ROW, int... R>
Tile pick(int rows, std::integer_sequence<int, R...>) {
  static constexpr Tile tiles[] = {tile<Op, R + 1, ROW>...};
  return tiles[rows - 1];
}

template <class Op, int ROW = 0>
Tile tile_of(int rows) {
  return pick<Op, ROW>(rows, std::make_integer_sequence<int, MAX_TILE>());
}

// Rows are spread evenly over tiles: 32 rows are three tiles of 11, not 14 + 14 + 4.
int tile_rows(int rows) {
  const int tiles = (rows + MAX_TILE - 1) / MAX_TILE;
  return (rows + tiles - 1) / tiles;
}

}  // namespace
