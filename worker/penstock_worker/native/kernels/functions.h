// Functions of vectors: exponentials and what is made of them, rounding, dot products.

#pragma once

#include <bit>
#include <cstdint>

#include "bfloat16.h"
#include "vectors.h"

namespace {

constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer

inline Ints rounded(Floats x) {  // of numbers below 2^22
  return std::bit_cast<Ints>(x + ROUND) - std::bit_cast<int32_t>(ROUND);
}

// e^x as Cephes' expf has it (S. Moshier), relative error below 2e-7; everything below -87 gives (nearly) nothing.
inline Floats exp(Floats x) {
  x = max(x, all(-87.0f));
  x = x < all(88.0f) ? x : all(88.0f);
  const Floats n = (x * 1.44269504088896341f + ROUND) - ROUND;
  const Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Floats p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
  return p * std::bit_cast<Floats>(power);
}

// cap * tanh(x / cap): scores are bent into that range (Gemma 2).
inline Floats capped(Floats x, float cap) { return cap - 2.0f * cap / (1.0f + exp(x * (2.0f / cap))); }

inline Floats silu(Floats x) { return x / (1.0f + exp(-x)); }

// GELU's approximation by tanh (Hendrycks & Gimpel, 2016): tanh(u) = 2 sigmoid(2u) - 1.
inline Floats gelu(Floats x) {
  return x / (1.0f + exp(-1.5957691216057308f * (x + 0.044715f * x * x * x)));
}

// erf as Abramowitz & Stegun have it (7.1.26), absolute error below 2e-7.
inline Floats erf(Floats x) {
  const Floats size = max(x, -x), t = 1.0f / (1.0f + 0.3275911f * size);
  Floats p = all(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Floats found = 1.0f - p * t * exp(-size * size);
  return x < 0.0f ? -found : found;
}

// GELU itself.
inline Floats exact_gelu(Floats x) { return 0.5f * x * (1.0f + erf(x * 0.70710678118654752f)); }

inline float total(const float* from, int n) {
  Floats added = {};
  int i = 0;
  for (; i + W <= n; i += W) added += load<Floats>(from + i);
  float found = sum(added);
  for (; i < n; i++) found += from[i];
  return found;
}

template <class T>
inline float dot(const float* a, const T* b, int n) {
  Floats total = {};
  int i = 0;
  for (; i + W <= n; i += W) total += load<Floats>(a + i) * load_floats(b + i);
  float found = sum(total);
  for (; i < n; i++) found += a[i] * value_of(b[i]);
  return found;
}

}  // namespace
