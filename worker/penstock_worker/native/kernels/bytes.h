// KV in bytes: a head's vector x is kept as round(127 x / s), with s = max |x| as its scale / 127.

#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "functions.h"
#include "vectors.h"

namespace {

typedef int8_t SignedBytes __attribute__((vector_size(W)));

inline Floats load_floats(const int8_t* from) {
#if defined(__AVX512F__)
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#elif defined(__AVX2__)
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#else
  return __builtin_convertvector(load<SignedBytes>(from), Floats);
#endif
}

// A byte of each word, the lowest first.
inline Floats byte_of(Floats words, int byte) {
  return __builtin_convertvector((std::bit_cast<Ints>(words) << (24 - 8 * byte)) >> 24, Floats);
}

inline float value_of(int8_t stored) { return stored; }

// Returns the scale, which bytes are to be multiplied with.
inline float quantise(const float* from, int count, int8_t* to) {
  float top = 1e-12f;
  int d = 0;
  Floats high = all(top);
  for (; d + W <= count; d += W) high = max(high, max(load<Floats>(from + d), -load<Floats>(from + d)));
  top = largest(high);
  for (; d < count; d++) top = std::max(top, std::fabs(from[d]));
  const float factor = 127.0f / top;
  for (d = 0; d + W <= count; d += W)
    store(to + d, __builtin_convertvector(rounded(load<Floats>(from + d) * factor), SignedBytes));
  for (; d < count; d++) to[d] = static_cast<int8_t>(rounded(all(from[d] * factor))[0]);
  return top / 127.0f;
}

}  // namespace
