// Vectors of floats as wide as the instruction set has them, in GCC's vector extension: the same text
// serves AVX-512, AVX2, SSE and NEON.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

namespace {

#if defined(__AVX512F__)
constexpr int W = 16;
constexpr int MAX_TILE = 14;  // rows of a register tile: 14 x 2 accumulators of 32 registers
#elif defined(__AVX__)
constexpr int W = 8;
constexpr int MAX_TILE = 6;  // 6 x 2 of 16 registers
#elif defined(__aarch64__)
constexpr int W = 4;
constexpr int MAX_TILE = 12;
#else
constexpr int W = 4;
constexpr int MAX_TILE = 6;
#endif
constexpr int PANEL = 2 * W;  // columns of a register tile, and of a packed panel of weights

typedef float Floats __attribute__((vector_size(4 * W)));
typedef int32_t Ints __attribute__((vector_size(4 * W)));
typedef uint32_t Words __attribute__((vector_size(4 * W)));
typedef uint16_t Halves __attribute__((vector_size(2 * W)));
typedef uint8_t Bytes __attribute__((vector_size(W)));

template <class V, class T>
inline V load(const T* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class V, class T>
inline void store(T* to, V v) {
  std::memcpy(to, &v, sizeof v);
}

inline Floats all(float value) { return value - Floats{}; }

inline Floats max(Floats a, Floats b) { return a > b ? a : b; }

template <int... I>
inline float sum_halves(auto v, std::integer_sequence<int, I...>) {
  constexpr int half = sizeof...(I);
  const auto folded = __builtin_shufflevector(v, v, I...) + __builtin_shufflevector(v, v, (half + I)...);
  if constexpr (half == 2) {
    return folded[0] + folded[1];
  } else {
    return sum_halves(folded, std::make_integer_sequence<int, half / 2>());
  }
}

inline float sum(Floats v) { return sum_halves(v, std::make_integer_sequence<int, W / 2>()); }

inline float largest(Floats v) {
  float found = v[0];
  for (int i = 1; i < W; i++) found = std::max(found, v[i]);
  return found;
}

// A square of W x W numbers, transposed in log2(W) rounds of shuffles.
template <int STEP = 1, int... I>
inline void transpose(Floats (&rows)[W], std::integer_sequence<int, I...> lanes) {
#pragma GCC unroll 16
  for (int i = 0; i < W; i++) {
    if (i & STEP) continue;
    const Floats a = rows[i], b = rows[i + STEP];
    rows[i] = __builtin_shufflevector(a, b, (I & STEP ? W + I - STEP : I)...);
    rows[i + STEP] = __builtin_shufflevector(a, b, (I & STEP ? W + I : I + STEP)...);
  }
  if constexpr (2 * STEP < W) transpose<2 * STEP>(rows, lanes);
}

// Copy part of a panel's row; most often it is whole.
inline void copy(const float* from, int count, float* to) {
  std::memcpy(to, from, count == PANEL ? PANEL * 4 : size_t{4} * count);
}

}  // namespace
