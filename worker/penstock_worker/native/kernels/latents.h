// Latent attention (DeepSeek-AI, "DeepSeek-V2", 2024, section 2.1), from a layer's projection to what
// its heads found.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "attention.h"
#include "cache.h"
#include "heads.h"
#include "interface.h"
#include "linear.h"
#include "memory.h"
#include "plan.h"
#include "products.h"
#include "rows.h"
#include "team.h"
#include "vectors.h"

namespace {

// What makes queries, keys and values of a layer.
struct LatentLinears {
  Linear queries;                    // of the normed vector that they are made from, where there is one
  std::vector<Linear> keys, values;  // by head: [rank][plain], [value][rank]
};

// Always in the absorbed form: queries are multiplied with what would make keys of latents, and
// attention weighs latents, which then become values. For long prompts it would be faster to make keys
// and values first, but a token's numbers would depend on how long the chunk is that it came in.
class Latents {
 public:
  Latents(const PenstockShape& of, Team& team, Products& products)
      : shape(of), team_(team), products_(products), heads_(team, products, of.heads) {}

  // Numbers per row of what the projection gives.
  static int projected(const PenstockShape& of) {
    return (of.query_rank ? of.query_rank : of.heads * (of.plain + of.rotary)) + of.head_dim;
  }

  // Rows that attend at a time. A row of a hundred heads takes half a megabyte in absorbed form.
  int part_rows() const {
    const size_t row = size_t{4} * shape.heads * (query_dim() + shape.head_dim + shape.rank);
    return std::max<int>(1, PART_BYTES / row / MAX_TILE) * MAX_TILE;
  }

  // Make room for the rows of a pass.
  void reserve(const LatentLinears& by, int rows) {
    const int part = std::min(rows, part_rows());
    const size_t numbers = size_t{4} * part;
    if (shape.query_rank) {
      products_.reserve(by.queries.kind, part, shape.query_rank);
      normed_.reserve(size_t{4} * rows * shape.query_rank);
      queries_.reserve(numbers * query_width());
    }
    heads_.reserve(by.keys, part);
    heads_.reserve(by.values, part);
    absorbed_.reserve(numbers * shape.heads * shape.head_dim);
    found_.reserve(numbers * shape.heads * shape.rank);
  }

  // Norm and turn what is kept of a token, and norm what its queries are made from.
  void begin(const PenstockLayer& layer, float* row, int index, int position) const {
    float* kept = row + projected(shape) - shape.head_dim;
    norm_row(kept, layer.latent_norm, shape.rank, EPS, kept);
    turn(layer, kept + shape.rank, position);
    if (shape.query_rank)
      norm_row(row, layer.query_norm, shape.query_rank, EPS,
               normed_.as<float>() + size_t(index) * shape.query_rank);
  }

  // Make a part's queries, that can be compared with latents, of the projection's rows. By every
  // thread, as the next one.
  void absorb(const PenstockLayer& layer, const LatentLinears& by, const float* projection,
              const int32_t* positions, const Part& part, int thread) {
    HeadRows of{projection + part.row * size_t(projected(shape)), size_t(projected(shape)), size_t(query_dim())};
    if (shape.query_rank) {
      const float* normed = normed_.as<float>() + size_t(part.row) * shape.query_rank;
      products_.pack(normed, shape.query_rank, by.queries.kind, part.rows, thread);
      products_.multiply(by.queries, thread, [&](int row, int column, int count, const float* y) {
        copy(y, count, queries_.as<float>() + size_t(row) * query_width() + column);
      });
      of = {queries_.as<float>(), size_t(query_width()), size_t(query_dim())};
    }
    heads_.multiply(by.keys, of, part.rows, thread, [&](int row, int head, int column, int count, const float* y) {
      copy(y, count, absorbed_of(row, head) + column);
    });
    team_.each(part.rows, [&](int row) {
      for (int head = 0; head < shape.heads; head++) {
        float* to = absorbed_of(row, head) + shape.rank;
        const float* from = of.from + row * of.row_stride + head * of.head_stride + shape.plain;
        std::memcpy(to, from, size_t{4} * shape.rotary);
        turn(layer, to, positions[part.row + row]);
      }
    });
  }

  // What a part's heads found in latents, as values: [rows][heads][value].
  void expand(const LatentLinears& by, const Part& part, int thread, float* to) {
    const HeadRows of{found_.as<float>(), size_t(shape.heads) * shape.rank, size_t(shape.rank)};
    float* first = to + size_t(part.row) * shape.heads * shape.value_dim;
    heads_.multiply(by.values, of, part.rows, thread, [&](int row, int head, int column, int count, const float* y) {
      copy(y, count, first + (size_t(row) * shape.heads + head) * shape.value_dim + column);
    });
  }

  // Of the part that attends: [rows][heads][head_dim], and [rows][heads][rank].
  float* absorbed() const { return absorbed_.as<float>(); }
  float* found() const { return found_.as<float>(); }

 private:
  static constexpr size_t PART_BYTES = 64 << 20;
  static constexpr float EPS = 1e-6f;  // of the norms here, whatever the model's others have

  int query_dim() const { return shape.plain + shape.rotary; }
  int query_width() const { return shape.heads * query_dim(); }

  float* absorbed_of(int row, int head) const {
    return absorbed() + (size_t(row) * shape.heads + head) * shape.head_dim;
  }

  void turn(const PenstockLayer& layer, float* part, int position) const {
    const size_t at = size_t(position) * shape.rotary;
    rotate_row(part, layer.cos + at, layer.sin + at, shape.rotary);
  }

  const PenstockShape& shape;
  Team& team_;
  Products& products_;
  HeadProducts heads_;
  Memory normed_;                       // rows of a pass
  Memory queries_, absorbed_, found_;  // rows of a part
};

}  // namespace
