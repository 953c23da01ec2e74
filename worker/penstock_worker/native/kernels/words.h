// How numbers lie in the 32-bit words of a matrix product, and how such words are multiplied.

#pragma once

#include <bit>
#include <cstdint>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "bfloat16.h"
#include "functions.h"
#include "vectors.h"

namespace {

// Inputs and weights of a product are packed into 32-bit words along the inner dimension: one
// float32, two bfloat16 or four bytes. Inputs lie as [tile][word][row], weights as
// [panel][word][column], so the innermost loop reads both in order, whatever the type.
// An operation multiplies a word of input with a vector of weight words and accumulates; it also
// makes W words of inputs, which bytes are scaled for.

struct Float32 {
  static constexpr int PER_WORD = 1;
  using Sum = Floats;
  static Words pack(const float* x, float) { return load<Words>(x); }
  static void add(Sum& sum, uint32_t a, Words b) {
    sum += std::bit_cast<float>(a) * std::bit_cast<Floats>(b);
  }
};

struct BFloat16 {
  static constexpr int PER_WORD = 2;
  using Sum = Floats;
  static Words pack(const float* x, float) {
    return pairs(bf16_bits(load<Words>(x)), bf16_bits(load<Words>(x + W)), std::make_integer_sequence<int, W>());
  }
  template <int... I>
  static Words pairs(Words a, Words b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, 2 * I...) | __builtin_shufflevector(a, b, (2 * I + 1)...) << 16;
  }
  static void add(Sum& sum, uint32_t a, Words b) {
#if defined(__AVX512BF16__)
    sum = _mm512_dpbf16_ps(sum, (__m512bh)(_mm512_set1_epi32(a)), (__m512bh)(b));
#else
    sum += std::bit_cast<float>(a << 16) * std::bit_cast<Floats>(b << 16);
    sum += std::bit_cast<float>(a & 0xffff0000u) * std::bit_cast<Floats>(b & 0xffff0000u);
#endif
  }
};

struct Int8 {  // input bytes are unsigned with zero at 128, weight bytes are signed
  static constexpr int PER_WORD = 4;
  using Sum = Ints;
  static Words pack(const float* x, float scale) {
    uint8_t bytes[4 * W];
    for (int i = 0; i < 4; i++)
      store(bytes + i * W, __builtin_convertvector(rounded(load<Floats>(x + i * W) * scale) + 128, Bytes));
    return load<Words>(bytes);
  }
  static void add(Sum& sum, uint32_t a, Words b) {
#if defined(__AVX512VNNI__)
    sum = (Ints)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(a), (__m512i)b);
#else
    const Ints bytes = (Ints)b;
    sum += static_cast<int>(a & 255) * ((bytes << 24) >> 24);
    sum += static_cast<int>(a >> 8 & 255) * ((bytes << 16) >> 24);
    sum += static_cast<int>(a >> 16 & 255) * ((bytes << 8) >> 24);
    sum += static_cast<int>(a >> 24) * (bytes >> 24);
#endif
  }
};

enum class Kind : int32_t { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2, INT4 = 3 };

int per_word(Kind kind) {
  return kind == Kind::INT8 ? 4 : kind == Kind::BFLOAT16 ? 2 : 1;  // int4 is computed in float32
}

}  // namespace
