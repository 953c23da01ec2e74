// A linear layer: packed weights in any stored type, multiplied panel by panel.

#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "adapters.h"
#include "bfloat16.h"
#include "inputs.h"
#include "int4.h"
#include "memory.h"
#include "tiles.h"
#include "words.h"

namespace {

constexpr int BLOCK_WORDS = 512;  // inner dimension per pass: a panel's block stays in L1 or L2
constexpr int AHEAD_WORDS = 48;   // how far weights are fetched ahead where they are used once
static_assert(BLOCK_WORDS % GROUP == 0);

// y = x W' + b with packed weights. An int8 column has one scale.
class Linear {
 public:
  Kind kind = Kind::FLOAT32;
  int inputs = 0, outputs = 0;
  std::vector<Reduction> reductions;               // by adapter; that of gate is up's, too
  std::vector<std::vector<Expansion>> expansions;  // by adapter

  // Have a place for the adapter of a number.
  void room_for(int adapter) {
    reductions.resize(std::max<size_t>(reductions.size(), adapter + 1));
    expansions.resize(std::max<size_t>(expansions.size(), adapter + 1));
  }

  int panels() const { return (outputs + PANEL - 1) / PANEL; }
  int words() const { return (inputs + per_word(kind) - 1) / per_word(kind); }

  void shape(Kind as, int out, int in) {
    kind = as;
    inputs = in;
    outputs = out;
    data_.reserve(panels() * panel_words() * 4);
    bias_.assign(size_t(panels()) * PANEL, 0.0f);
    if (kind == Kind::INT8) {
      scales_.assign(bias_.size(), 0.0f);
      offsets_.assign(bias_.size(), 0);
    }
  }

  void set_bias(const float* bias) {
    biased_ = true;
    std::copy(bias, bias + outputs, bias_.begin());
  }

  // Pack a panel of the weight [outputs][inputs]; columns that it lacks are zero.
  void pack(int panel, const float* weight) {
    uint32_t* to = data_.as<uint32_t>() + panel * panel_words();
    std::memset(to, 0, panel_words() * 4);
    for (int c = 0; c < PANEL && panel * PANEL + c < outputs; c++) {
      const float* row = weight + size_t(panel * PANEL + c) * inputs;
      switch (kind) {
        case Kind::FLOAT32:
          for (int k = 0; k < inputs; k++) to[size_t(k) * PANEL + c] = std::bit_cast<uint32_t>(row[k]);
          break;
        case Kind::BFLOAT16:
          for (int k = 0; k < inputs; k++)
            to[size_t(k / 2) * PANEL + c] |= bf16_bits(row[k]) << (k % 2 * 16);
          break;
        case Kind::INT8:
          pack_int8(panel * PANEL + c, row, to + c);
          break;
        case Kind::INT4:
          for (int g = 0; g * GROUP < inputs; g++)
            pack_int4(row + g * GROUP, std::min(GROUP, inputs - g * GROUP), to + g * GROUP_WORDS + c);
      }
    }
  }

  const uint32_t* panel(int index) const { return data_.as<uint32_t>() + index * panel_words(); }

  // Compute tiles [first, first + count) of one panel into sums [count][tile][PANEL]. `next` are
  // the weights that this thread will probably read after these.
  void multiply(int index, const Inputs& x, int first, int count, float* sums, float* block,
                const uint32_t* next) const {
    const Tile kernel = kind == Kind::INT8       ? tile_of<Int8>(x.tile)
                        : kind == Kind::BFLOAT16 ? tile_of<BFloat16>(x.tile)
                                                 : tile_of<Float32>(x.tile);
    const int total = words();
    for (int k = 0; k < total; k += BLOCK_WORDS) {
      const int part = std::min(BLOCK_WORDS, total - k);
      const uint32_t* weights = panel(index) + size_t(k) * PANEL;
      const uint32_t* later = k + part < total ? weights + size_t(part) * PANEL : next;
      if (kind == Kind::INT4) {
        unpack_int4(panel(index), k, part, block);
        weights = reinterpret_cast<const uint32_t*>(block);
      }
      if (count == 1) {
        // Alone, a tile reads its block as fast as memory gives it: it fetches a little ahead.
        const int near = std::max(0, part - AHEAD_WORDS);
        const uint32_t* input = x.at(first) + size_t(k) * x.tile;
        kernel(input, weights, near, sums, k == 0, ahead(weights + size_t(part - near) * PANEL, 1));
        kernel(input + size_t(near) * x.tile, weights + size_t(near) * PANEL, part - near, sums,
               k == 0 && !near, ahead(later, 1));
        continue;
      }
      for (int t = 0; t < count; t++)
        kernel(x.at(first + t) + size_t(k) * x.tile, weights, part,
               sums + size_t(t) * x.tile * PANEL, k == 0,
               ahead(later + size_t(t) * part * PANEL / count, count));
    }
    finish(index, x, first, count, sums);
  }

 private:
  // Several tiles share a block: meanwhile they fetch the next one, each its part.
  static Ahead ahead(const uint32_t* weights, int shared) {
    return {reinterpret_cast<const char*>(weights), 4 * PANEL / shared};
  }

  size_t panel_words() const {
    if (kind == Kind::INT4) return size_t((inputs + GROUP - 1) / GROUP) * GROUP_WORDS;
    return size_t(words()) * PANEL;
  }

  void pack_int8(int column, const float* row, uint32_t* to) {
    float top = 1e-12f;
    for (int k = 0; k < inputs; k++) top = std::max(top, std::fabs(row[k]));
    scales_[column] = top / 127.0f;
    int total = 0;
    for (int k = 0; k < inputs; k++) {
      const int value = std::lrintf(row[k] * (127.0f / top));
      total += value;
      to[size_t(k / 4) * PANEL] |= static_cast<uint32_t>(value & 255) << (k % 4 * 8);
    }
    offsets_[column] = -128 * total;  // takes back what the inputs' zero at 128 added
  }

  void finish(int panel, const Inputs& x, int first, int count, float* sums) const {
    if (kind != Kind::INT8 && !biased_) return;
    const size_t column = size_t(panel) * PANEL;
    for (int row = 0; row < count * x.tile; row++, sums += PANEL)
      for (int half = 0; half < PANEL; half += W) {
        Floats value = load<Floats>(sums + half);
        if (kind == Kind::INT8) {
          const Ints whole = std::bit_cast<Ints>(value) + load<Ints>(&offsets_[column + half]);
          value = __builtin_convertvector(whole, Floats) * load<Floats>(&scales_[column + half]) *
                  x.scales[first * x.tile + row];
        }
        store(sums + half, value + load<Floats>(&bias_[column + half]));
      }
  }

  Memory data_;
  bool biased_ = false;
  std::vector<float> bias_, scales_;
  std::vector<int32_t> offsets_;
};

}  // namespace
