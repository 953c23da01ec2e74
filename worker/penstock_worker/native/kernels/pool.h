// A layer's part of the pool: where a token's keys and values are kept, and attention finds them.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "bfloat16.h"
#include "bytes.h"
#include "cache.h"
#include "interface.h"

namespace {

enum class KvType : int32_t { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };

// Keep what a token has for all KV heads in its slot of keys or values, and of their scales.
inline void keep(const PenstockShape& shape, void* pool, float* scales, size_t slot, const float* from) {
  const size_t dim = shape.head_dim, heads = shape.kv_heads, width = heads * dim, at = slot * width;
  switch (static_cast<KvType>(shape.kv_type)) {
    case KvType::FLOAT32:
      std::memcpy(static_cast<float*>(pool) + at, from, 4 * width);
      break;
    case KvType::BFLOAT16:
      for (size_t i = 0; i < width; i++) put(static_cast<uint16_t*>(pool) + at + i, from[i]);
      break;
    case KvType::INT8: {
      const size_t size = shape.block_size;
      float* scale = scales + slot / size * heads * size + slot % size;
      for (size_t head = 0; head < heads; head++)
        scale[head * size] = quantise(from + head * dim, dim, static_cast<int8_t*>(pool) + at + head * dim);
    }
  }
}

// Where a sequence's KV for one head lies.
template <class T>
Cache<T> cache_of(const PenstockShape& shape, const PenstockLayer& layer, const int32_t* blocks, size_t head) {
  const size_t at = head * shape.head_dim;
  Cache<T> found{static_cast<const T*>(layer.keys) + at, static_cast<const T*>(layer.values) + at, blocks,
                 shape.block_size, size_t(shape.kv_heads) * shape.head_dim};
  if constexpr (Cache<T>::SCALED) {
    found.key_scales = layer.key_scales + head * shape.block_size;
    found.value_scales = layer.value_scales + head * shape.block_size;
    found.kv_heads = shape.kv_heads;
  }
  return found;
}

}  // namespace
