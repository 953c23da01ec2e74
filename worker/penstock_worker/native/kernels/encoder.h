// An encoder (BERT; Devlin et al., 2019): every token of an input sees every other, and norms come
// after what is added.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "attention.h"
#include "bfloat16.h"
#include "cache.h"
#include "functions.h"
#include "interface.h"
#include "linear.h"
#include "memory.h"
#include "plan.h"
#include "products.h"
#include "rows.h"
#include "team.h"

namespace {

struct EncoderLayer : PenstockEncoderLayer {
  Linear qkv, output, up, down;

  Linear& linear(int which) {
    Linear* all[] = {&qkv, &output, &up, &down};
    return *all[which];
  }
};

class Encoder {
 public:
  Encoder(const PenstockEncoderShape& of, const PenstockEncoderTables& tables)
      : layers(of.layers), team(of.threads), shape_(of), tables_(tables), dim_(of.hidden / of.heads),
        products_(team, no_adapters_, of.hidden, of.eps, Attention::scratch_bytes(dim_, dim_, MANY_ROWS)) {}

  // Inputs are taken together as long as a pass has room, and never cut: their tokens see each other.
  void step(const PenstockEncoderStep& asked) {
    size_t first = 0;
    for (int input = 0, begin = 0; input < asked.inputs; begin = input) {
      int rows = static_cast<int>(asked.lengths[input++]);
      while (input < asked.inputs && rows + asked.lengths[input] <= PASS_ROWS)
        rows += static_cast<int>(asked.lengths[input++]);
      prepare(asked.lengths + begin, input - begin, rows);
      auto work = [&](int thread) { pass(asked, first, rows, thread); };
      team.run(work);
      first += rows;
    }
  }

  std::vector<EncoderLayer> layers;
  Team team;

 private:
  struct Norm {
    const float *weight, *bias;
  };
  struct Task {  // of attention: queries of one head
    int first_row, length;  // of the input
    int token, tokens, head;
  };

  int qkv_width() const { return 3 * shape_.hidden; }

  void prepare(const int64_t* lengths, int inputs, int rows) {
    qkv_.reserve(size_t{4} * rows * qkv_width());
    inner_.reserve(size_t{4} * rows * std::max(shape_.inner, shape_.hidden));
    products_.reserve(layers[0].qkv.kind, rows, shape_.hidden);
    products_.reserve(layers[0].down.kind, rows, shape_.inner);
    tasks_.clear();
    for (int input = 0, row = 0; input < inputs; row += static_cast<int>(lengths[input++]))
      for (int head = 0; head < shape_.heads; head++)
        cut(row, static_cast<int>(lengths[input]), head);
  }

  void cut(int first_row, int length, int head) {
    for (int token = 0; token < length; token += MANY_ROWS)
      tasks_.push_back({first_row, length, token, std::min(MANY_ROWS, length - token), head});
  }

  // What every thread of the team does in a pass.
  void pass(const PenstockEncoderStep& asked, size_t first, int rows, int thread) {
    float* x = asked.states + first * shape_.hidden;
    float *attended = inner_.as<float>(), *inner = attended;  // one is read before the other is made
    team.each(rows, [&](int row) { embed(asked, first + row); });
    Norm due = {tables_.norm, tables_.norm_bias};  // of what was added to the rows last
    auto normed = [&](int row) {
      layer_norm_row(x + size_t(row) * shape_.hidden, due.weight, due.bias, shape_.hidden, shape_.eps);
    };
    for (EncoderLayer& layer : layers) {
      products_.pack(x, shape_.hidden, layer.qkv.kind, rows, thread, normed);
      products_.multiply(layer.qkv, thread, [&](int row, int column, int count, const float* y) {
        copy(y, count, qkv_.as<float>() + size_t(row) * qkv_width() + column);
      });
      team.each(tasks_.size(), [&](int task) { attend(task, attended, thread); });
      products_.pack(attended, shape_.hidden, layer.output.kind, rows, thread);
      add(layer.output, x, thread);
      due = {layer.attention_norm, layer.attention_norm_bias};
      products_.pack(x, shape_.hidden, layer.up.kind, rows, thread, normed);
      products_.multiply(layer.up, thread, [&](int row, int column, int count, const float* y) {
        activate(y, count, inner + size_t(row) * shape_.inner + column);
      });
      products_.pack(inner, shape_.inner, layer.down.kind, rows, thread);
      add(layer.down, x, thread);
      due = {layer.norm, layer.norm_bias};
    }
    team.each(rows, normed);
  }

  void embed(const PenstockEncoderStep& asked, size_t row) const {
    const size_t width = shape_.hidden;
    if (shape_.words_bf16)
      embed(static_cast<const uint16_t*>(tables_.words) + asked.tokens[row] * width, asked, row);
    else
      embed(static_cast<const float*>(tables_.words) + asked.tokens[row] * width, asked, row);
  }

  template <class T>
  void embed(const T* word, const PenstockEncoderStep& asked, size_t row) const {
    const size_t width = shape_.hidden;
    const float* position = tables_.positions + (asked.positions[row] + shape_.first_position) * width;
    const float* type = tables_.types + (asked.types ? asked.types[row] * width : 0);
    float* to = asked.states + row * width;
    for (size_t i = 0; i < width; i++) to[i] = value_of(word[i]) + position[i] + type[i];
  }

  // x += what the packed rows give.
  void add(const Linear& linear, float* x, int thread) {
    products_.multiply(linear, thread, [&](int row, int column, int count, const float* y) {
      float* to = x + size_t(row) * shape_.hidden + column;
      for (int i = 0; i < count; i++) to[i] += y[i];
    });
  }

  void activate(const float* from, int count, float* to) const {
    float active[PANEL];
    for (int half = 0; half < PANEL; half += W) store(active + half, activated(load<Floats>(from + half)));
    copy(active, count, to);
  }

  Floats activated(Floats x) const {
    switch (shape_.activation) {
      case 0:
        return exact_gelu(x);
      case 1:
        return gelu(x);
      case 2:
        return max(x, Floats{});
      default:
        return silu(x);
    }
  }

  void attend(int index, float* attended, int thread) const {
    const Task& task = tasks_[index];
    const Task& next = tasks_[std::min<int>(index + team.size(), tasks_.size() - 1)];
    Attention::attend(queries_of(task, attended), cache_of(task), queries_of(next, attended), cache_of(next),
                      products_.scratch(thread));
  }

  Queries queries_of(const Task& task, float* attended) const {
    const size_t row = task.first_row + task.token, at = size_t(task.head) * dim_;
    return {qkv_.as<float>() + row * qkv_width() + at, attended + row * shape_.hidden + at,
            task.tokens, 1, dim_, dim_, size_t(qkv_width()), size_t(shape_.hidden),
            task.token, 0, 1.0f / std::sqrt(static_cast<float>(dim_)), 0, task.length};
  }

  // An input's own rows, as one block of a cache.
  Cache<float> cache_of(const Task& task) const {
    static constexpr int32_t FIRST = 0;
    const float* keys = qkv_.as<float>() + size_t(task.first_row) * qkv_width() + shape_.hidden + task.head * dim_;
    return {keys, keys + shape_.hidden, &FIRST, task.length, size_t(qkv_width())};
  }

  const PenstockEncoderShape shape_;
  const PenstockEncoderTables tables_;
  const int dim_;              // of a head
  std::vector<Task> tasks_;    // of a pass
  Memory qkv_, inner_;         // rows of a pass
  const Plan no_adapters_{};
  Products products_;
};

}  // namespace
