// bfloat16: the upper half of a float32's bits.

#pragma once

#include <bit>
#include <cstdint>

#include "vectors.h"

namespace {

template <class Bits>
inline Bits bf16_bits(Bits bits) {  // of a float's bits: round to nearest even
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

inline uint32_t bf16_bits(float value) { return bf16_bits(std::bit_cast<uint32_t>(value)); }

inline float bf16_value(uint32_t bits) { return std::bit_cast<float>(bits << 16); }

inline Floats widen(Halves bf16) {
  return std::bit_cast<Floats>(__builtin_convertvector(bf16, Words) << 16);
}

inline Floats load_floats(const float* from) { return load<Floats>(from); }
inline Floats load_floats(const uint16_t* from) { return widen(load<Halves>(from)); }

inline float value_of(float stored) { return stored; }
inline float value_of(uint16_t stored) { return bf16_value(stored); }
inline void put(float* to, float value) { *to = value; }
inline void put(uint16_t* to, float value) { *to = bf16_bits(value); }

}  // namespace
