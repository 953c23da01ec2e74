// Weights of four bits: a column has a scale and a minimum per GROUP weights, both bfloat16 in one
// word, followed by the weights, eight to a word.

#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "bfloat16.h"
#include "vectors.h"

namespace {

constexpr int GROUP = 64;  // weights of a column that share a scale and a minimum
constexpr int GROUP_WORDS = (1 + GROUP / 8) * PANEL;

// Pack one column's weights of a group.
inline void pack_int4(const float* row, int count, uint32_t* to) {
  const auto [low, high] = std::minmax_element(row, row + count);
  const uint32_t minimum = bf16_bits(*low);
  const uint32_t scale = bf16_bits(std::max((*high - *low) / 15.0f, 1e-12f));
  to[0] = minimum | scale << 16;
  for (int k = 0; k < count; k++) {
    const float steps = (row[k] - bf16_value(minimum)) / bf16_value(scale);
    const int value = std::clamp(static_cast<int>(std::lrintf(steps)), 0, 15);
    to[(1 + k / 8) * PANEL] |= static_cast<uint32_t>(value) << (k % 8 * 4);
  }
}

// Unpack `count` words of a panel's inner dimension, from `first` on, to float32.
inline void unpack_int4(const uint32_t* panel, int first, int count, float* to) {
  for (int k = 0; k < count; k += GROUP) {
    const uint32_t* group = panel + (first + k) / GROUP * GROUP_WORDS;
    for (int half = 0; half < 2; half++, group += W) {
      const Words header = load<Words>(group);
      const Floats low = std::bit_cast<Floats>(header << 16);
      const Floats scale = std::bit_cast<Floats>(header & 0xffff0000u);
      // The last group may be short; the block has room for all of it.
      for (int j = 0; j < GROUP; j += 8) {
        const Words eight = load<Words>(group + (1 + j / 8) * PANEL);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
          const Floats steps = __builtin_convertvector((Ints)(eight >> (4 * i) & 15), Floats);
          store(to + size_t(k + j + i) * PANEL + half * W, low + steps * scale);
        }
      }
    }
  }
}

}  // namespace
