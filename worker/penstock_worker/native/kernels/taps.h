// What a model thinks of each token, kept beside its KV for a head that guesses (Li et al., "EAGLE-3",
// 2025): the model fuses the inputs of three of its layers and stores them. The head reads what was
// thought in front of its token; where it guesses on, it stores what itself thought, until the model
// has computed that token.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bfloat16.h"
#include "interface.h"
#include "plan.h"
#include "rows.h"

namespace {

struct Features : PenstockFeatures {
  bool written() const { return pool && !hidden_norm; }  // by a model
  bool read() const { return hidden_norm; }              // by a head

  // Find the slots of a pass's rows, and of what is in front of them.
  void find(const Plan& plan, const PenstockStep& asked, int rows, int block_size) {
    slots_.resize(rows);
    before_.resize(rows);
    for (const Piece& piece : plan.pieces) {
      const int32_t* blocks = asked.blocks + size_t(piece.sequence) * asked.block_columns;
      auto slot = [&](int position) {
        return int64_t{blocks[position / block_size]} * block_size + position % block_size;
      };
      for (int t = 0; t < piece.tokens; t++) {
        slots_[piece.row + t] = slot(piece.position + t);
        before_[piece.row + t] = piece.position + t ? slot(piece.position + t - 1) : -1;
      }
    }
  }

  void put(int row, int column, int count, int width, const float* values) const {
    uint16_t* to = pool + slots_[row] * width + column;
    for (int i = 0; i < count; i++) to[i] = bf16_bits(values[i]);
  }

  // Begin a row of a head: x is what was thought in front of it, nothing at the very first token, and
  // joined is its word, in place already, and that, each normed.
  void begin(int row, int width, const float* word_norm, float eps, float* x, float* joined) const {
    norm_row(joined, word_norm, width, eps, joined);
    const int64_t before = before_[row];
    for (int i = 0; i < width; i++) x[i] = before < 0 ? 0.0f : bf16_value(pool[before * width + i]);
    norm_row(x, hidden_norm, width, eps, joined + width);
    if (normed) std::memcpy(x, joined + width, size_t{4} * width);
  }

 private:
  std::vector<int64_t> slots_, before_;
};

}  // namespace
