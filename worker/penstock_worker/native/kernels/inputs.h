// Inputs of a product, packed once for all of its weights.

#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "functions.h"
#include "memory.h"
#include "tiles.h"
#include "words.h"

namespace {

constexpr int BLOCK_TILES = 8;  // tiles that a block of weights is used for before it is left

// Longer steps are computed in parts, so that buffers stay small and near: whole blocks of whole
// tiles, about a thousand rows.
constexpr int PASS_ROWS = 1024 / (BLOCK_TILES * MAX_TILE) * BLOCK_TILES * MAX_TILE;

// Inputs of a product, packed for one kind of weights, in memory that somebody else keeps.
struct Inputs {
  uint32_t* data = nullptr;  // [tiles][words][tile rows]
  float* scales = nullptr;   // of bytes: a factor per row
  Kind kind = Kind::FLOAT32;
  int rows = 0, tile = 1, words = 0;

  int tiles() const { return (rows + tile - 1) / tile; }
  int blocks() const { return (tiles() + BLOCK_TILES - 1) / BLOCK_TILES; }
  size_t padded_rows() const { return size_t(tiles()) * tile; }
  size_t size() const { return padded_rows() * words; }  // of data, in words

  void shape(Kind as, int row_count, int columns) {
    kind = as;
    rows = row_count;
    tile = tile_rows(row_count);
    words = (columns + per_word(as) - 1) / per_word(as);
  }

  uint32_t* at(int index) const { return data + size_t(index) * words * tile; }

  // Pack the rows of one tile, `stride` floats apart; those that the last tile lacks become zero.
  void pack(int index, const float* from, size_t stride, int columns) const {
    if (kind == Kind::BFLOAT16)
      pack_as<BFloat16>(index, from, stride, columns);
    else if (kind == Kind::INT8)
      pack_as<Int8>(index, from, stride, columns);
    else
      pack_as<Float32>(index, from, stride, columns);
  }

 private:
  // W rows at a time are transposed in registers. Where a tile has fewer, all W are stored even so:
  // what is too much is overwritten by the next word's, but for the last words of a tile.
  template <class Op>
  void pack_as(int index, const float* from, size_t stride, int columns) const {
    const int present = std::min(tile, rows - index * tile);
    float factors[MAX_TILE] = {};
    if (kind == Kind::INT8)
      for (int r = 0; r < present; r++) factors[r] = scale(index * tile + r, from + r * stride, columns);
    for (int k = 0; k < words; k += W)
      for (int first = 0; first < tile; first += W) {
        Floats square[W] = {};
        for (int i = 0; i < std::min(W, present - first); i++)
          square[i] = std::bit_cast<Floats>(
              words_at<Op>(from + (first + i) * stride, k, columns, factors[first + i]));
        transpose(square, std::make_integer_sequence<int, W>());
        uint32_t* to = at(index) + size_t(k) * tile + first;
        const int count = std::min(W, words - k), high = std::min(W, tile - first);
        if (tile <= W && (words - k - W) * tile >= W)
          for (int i = 0; i < W; i++) store(to + i * tile, square[i]);
        else
          for (int i = 0; i < count; i++) std::memcpy(to + i * tile, &square[i], size_t{4} * high);
      }
  }

  template <class Op>
  static Words words_at(const float* x, int word, int columns, float factor) {
    const int first = word * Op::PER_WORD;
    if (first + W * Op::PER_WORD <= columns) return Op::pack(x + first, factor);
    float rest[W * Op::PER_WORD] = {};
    std::memcpy(rest, x + first, size_t{4} * (columns - first));
    return Op::pack(rest, factor);
  }

  // Find and keep the scale of a row of bytes; returns what its numbers are multiplied with.
  float scale(int row, const float* x, int columns) const {
    Floats high = all(1e-12f);
    int k = 0;
    for (; k + W <= columns; k += W) high = max(high, max(load<Floats>(x + k), -load<Floats>(x + k)));
    float top = largest(high);
    for (; k < columns; k++) top = std::max(top, std::fabs(x[k]));
    scales[row] = top / 127.0f;
    return 127.0f / top;
  }
};

// Memory for the inputs of one product, or of several of one shape side by side.
class InputMemory {
 public:
  void reserve(Kind kind, int rows, int columns, int count = 1) {
    Inputs one;
    one.shape(kind, rows, columns);
    data_.reserve(size_t{4} * count * one.size());
    scales_.reserve(size_t{4} * count * one.padded_rows());
  }

  // Give shaped inputs their part of what was reserved.
  void place(Inputs& inputs, int index = 0) const {
    inputs.data = data_.as<uint32_t>() + index * inputs.size();
    inputs.scales = scales_.as<float>() + index * inputs.padded_rows();
  }

 private:
  Memory data_, scales_;
};

}  // namespace
