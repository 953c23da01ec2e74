// The model: a step is passed through its layers, then through the head.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "attention.h"
#include "bfloat16.h"
#include "cache.h"
#include "experts.h"
#include "taps.h"
#include "functions.h"
#include "interface.h"
#include "latents.h"
#include "likeliest.h"
#include "linear.h"
#include "memory.h"
#include "plan.h"
#include "pool.h"
#include "products.h"
#include "rows.h"
#include "selection.h"
#include "sparse.h"
#include "team.h"

namespace {

struct Layer : PenstockLayer {
  Linear qkv, output, gate, up, down;
  LatentLinears latent;
  Experts experts;  // in the place of gate, up, down

  Linear& linear(int which) {
    Linear* all[] = {&qkv, &output, &gate, &up, &down, &latent.queries};
    return *all[which];
  }
};

class Decoder {
 public:
  explicit Decoder(const PenstockShape& of)
      : shape(of), layers(of.layers), team(of.threads), likeliest_(of.threads),
        products_(team, plan_, of.hidden, of.eps, attention_scratch()), latents_(shape, team, products_),
        sparse_(team, products_, of.hidden, of.eps, of.gelu), selections_(of.sparse_blocks ? of.threads : 0) {}

  void step(const PenstockStep& asked) {
    outputs_.reserve(size_t{4} * std::max(1, asked.outputs) * shape.hidden);
    int done = 0;
    for (int first = 0; first < asked.rows; first += PASS_ROWS) {
      const int rows = std::min(PASS_ROWS, asked.rows - first);
      prepare(asked, first, rows);
      auto work = [&](int thread) { pass(asked, first, rows, thread); };
      team.run(work);
      for (; done < asked.outputs && asked.output_rows[done] < first + rows; done++) {
        const int row = asked.output_rows[done] - first;
        std::memcpy(outputs_.as<float>() + size_t(done) * shape.hidden, x_row(row), size_t{4} * shape.hidden);
        if (features.read()) features.put(row, 0, shape.hidden, shape.hidden, x_row(row));
      }
    }
    if (!asked.outputs) return;
    products_.reserve(head.kind, asked.outputs, head.inputs);
    likeliest_.begin(asked.outputs);
    auto work = [&](int thread) { finish(asked, thread); };
    team.run(work);
    for (int row = 0; row < asked.outputs; row++) asked.greedy[row] = likeliest_.of(row);
  }

  const PenstockShape shape;
  const void* embedding = nullptr;
  bool embedding_bf16 = false;
  const float* norm = nullptr;
  std::vector<Layer> layers;
  Linear head;
  Features features{};
  Linear fusion;  // of a model's features
  Team team;
  int most_ranks = 0;  // of a reduction

 private:
  int part_rows() const { return shape.rank ? latents_.part_rows() : PASS_ROWS; }
  int value_dim() const { return shape.rank ? shape.rank : shape.head_dim; }
  int query_width() const { return shape.heads * shape.head_dim; }
  float* x_row(int row) const { return x_.as<float>() + size_t(row) * shape.hidden; }
  int kv_width() const { return shape.kv_heads * shape.head_dim; }
  int qkv_width() const { return shape.rank ? Latents::projected(shape) : query_width() + 2 * kv_width(); }
  int attended_width() const { return shape.heads * (shape.rank ? shape.value_dim : shape.head_dim); }

  size_t attention_scratch() const {
    return Attention::scratch_bytes(shape.head_dim, value_dim(), std::max(MANY_ROWS, shape.heads / shape.kv_heads));
  }

  void prepare(const PenstockStep& asked, int first, int rows) {
    x_.reserve(size_t{4} * rows * shape.hidden);
    qkv_.reserve(size_t{4} * rows * qkv_width());
    attended_.reserve(size_t{4} * rows * attended_width());
    inner_.reserve(size_t{4} * rows * std::max(shape.inner, shape.hidden));
    plan_.cut(shape, asked, first, rows, part_rows());
    for (Selection& selection : selections_) selection.reserve(shape, asked.block_columns);
    products_.reserve(rows, most_ranks);
    for (const Layer& layer : layers) prepare(layer, rows);
    if (!features.pool) return;
    features.find(plan_, asked, rows, shape.block_size);
    joined_.reserve(size_t{4} * rows * (features.read() ? 2 * shape.hidden : fusion.inputs));
    if (features.written()) products_.reserve(fusion.kind, rows, fusion.inputs);
  }

  void prepare(const Layer& layer, int rows) {
    for (const Linear* linear : {&layer.qkv, &layer.output}) products_.reserve(linear->kind, rows, linear->inputs);
    if (shape.rank) latents_.reserve(layer.latent, rows);
    if (layer.experts) return sparse_.reserve(layer.experts, rows);
    for (const Linear* linear : {&layer.gate, &layer.down}) products_.reserve(linear->kind, rows, linear->inputs);
  }

  // What every thread of the team does in a pass.
  void pass(const PenstockStep& asked, int first, int rows, int thread) {
    if (!features.read())
      team.each(rows, [&](int row) { embed(asked.tokens[first + row], x_row(row)); });
    for (size_t index = 0; index < layers.size(); index++) {
      Layer& layer = layers[index];
      if (features.read())
        begin_head(layer, asked.tokens + first, rows, thread);
      else
        products_.pack_normed(x_.as<float>(), shape.hidden, layer.input_norm, layer.qkv.kind, rows, thread);
      tap(index, rows);
      products_.reduce(layer.qkv, x_.as<float>(), layer.input_norm, thread);
      products_.multiply(layer.qkv, thread, [&](int row, int column, int count, const float* y) {
        copy(y, count, qkv_.as<float>() + size_t(row) * qkv_width() + column);
      });
      team.each(plan_.pieces.size(), [&](int piece) { place(layer, asked, plan_.pieces[piece]); });
      for (const Part& part : plan_.parts) {
        if (shape.rank) latents_.absorb(layer, layer.latent, qkv_.as<float>(), asked.positions + first, part, thread);
        if (layer.bounds)  // all of the pass is one part
          team.each(plan_.sparse.size(), [&](int task) { attend(layer, asked, plan_.sparse, task, thread); });
        else
          team.each(part.tasks, [&](int task) { attend(layer, asked, plan_.tasks, part.task + task, thread); });
        if (shape.rank) latents_.expand(layer.latent, part, thread, attended_.as<float>());
      }
      products_.pack(attended_.as<float>(), attended_width(), layer.output.kind, rows, thread);
      products_.reduce(layer.output, attended_.as<float>(), nullptr, thread);
      add(layer.output, layer.attention_post_norm, rows, thread);
      if (layer.experts) {
        sparse_.add(layer.experts, layer.mlp_norm, x_.as<float>(), rows, thread);
        continue;
      }
      products_.pack_normed(x_.as<float>(), shape.hidden, layer.mlp_norm, layer.gate.kind, rows, thread);
      products_.reduce(layer.gate, x_.as<float>(), layer.mlp_norm, thread);
      products_.multiply_gated(layer.gate, layer.up, shape.gelu, thread, inner_.as<float>());
      products_.pack(inner_.as<float>(), shape.inner, layer.down.kind, rows, thread);
      products_.reduce(layer.down, inner_.as<float>(), nullptr, thread);
      add(layer.down, layer.mlp_post_norm, rows, thread);
    }
    tap(layers.size(), rows);
    fuse(rows, thread);
  }

  // A head's layer multiplies the word and what was thought in front of it, side by side.
  void begin_head(const Layer& layer, const int32_t* tokens, int rows, int thread) {
    const int width = 2 * shape.hidden;
    products_.pack(joined_.as<float>(), width, layer.qkv.kind, rows, thread, [&](int row) {
      float* joined = joined_.as<float>() + size_t(row) * width;
      embed(tokens[row], joined);
      features.begin(row, shape.hidden, layer.input_norm, shape.eps, x_row(row), joined);
    });
  }

  // Keep what goes into a layer, if features are made of it.
  void tap(size_t layer, int rows) {
    if (!features.written()) return;
    for (int i = 0; i < 3; i++)
      if (features.taps[i] == static_cast<int>(layer))
        team.each(rows, [&](int row) {
          copy(x_row(row), shape.hidden, joined_.as<float>() + size_t(row) * fusion.inputs + i * shape.hidden);
        });
  }

  void fuse(int rows, int thread) {
    if (!features.written()) return;
    products_.pack(joined_.as<float>(), fusion.inputs, fusion.kind, rows, thread);
    products_.multiply(fusion, thread, [&](int row, int column, int count, const float* y) {
      features.put(row, column, count, shape.hidden, y);
    });
  }

  void embed(int token, float* to) const {
    const size_t from = size_t(token) * shape.hidden;
    for (int i = 0; i < shape.hidden; i++)
      to[i] = shape.embedding_scale * (embedding_bf16
                                           ? bf16_value(static_cast<const uint16_t*>(embedding)[from + i])
                                           : static_cast<const float*>(embedding)[from + i]);
  }

  // x += what the packed rows give, normed first where the model does that.
  void add(const Linear& linear, const float* post_norm, int rows, int thread) {
    if (!post_norm) {
      products_.multiply(linear, thread, [this](int row, int column, int count, const float* y) {
        float* to = x_.as<float>() + size_t(row) * shape.hidden + column;
        for (int i = 0; i < count; i++) to[i] += y[i];
      });
      return;
    }
    float* found = inner_.as<float>();  // free: its rows are packed, or not yet there
    products_.multiply(linear, thread, [&](int row, int column, int count, const float* y) {
      copy(y, count, found + size_t(row) * shape.hidden + column);
    });
    team.each(rows, [&](int row) {
      float *from = found + size_t(row) * shape.hidden, *to = x_.as<float>() + size_t(row) * shape.hidden;
      norm_row(from, post_norm, shape.hidden, shape.eps, from);
      for (int i = 0; i < shape.hidden; i++) to[i] += from[i];
    });
  }

  // Rotate a piece's queries and keys, and store its keys and values in the pool.
  void place(const Layer& layer, const PenstockStep& asked, const Piece& piece) {
    const int32_t* blocks = asked.blocks + size_t(piece.sequence) * asked.block_columns;
    for (int t = 0; t < piece.tokens; t++) {
      const int position = piece.position + t;
      float* row = qkv_.as<float>() + size_t(piece.row + t) * qkv_width();
      const size_t slot = size_t(blocks[position / shape.block_size]) * shape.block_size +
                          position % shape.block_size;
      if (shape.rank) {
        latents_.begin(layer, row, piece.row + t, position);
        keep(shape, layer.keys, layer.key_scales, slot, row + qkv_width() - kv_width());
        continue;
      }
      for (int h = 0; h < shape.heads + shape.kv_heads; h++)
        rotate(layer, row + h * shape.head_dim, h, position);
      keep(shape, layer.keys, layer.key_scales, slot, row + query_width());
      if (layer.bounds && (slot + 1) % shape.block_size == 0) bound(shape, layer, slot / shape.block_size);
      keep(shape, layer.values, layer.value_scales, slot, row + query_width() + kv_width());
    }
  }

  void rotate(const Layer& layer, float* head, int index, int position) const {
    const int dim = shape.head_dim;
    if (layer.query_key_norm) norm_row(head, layer.query_key_norm + size_t(index) * dim, dim, shape.eps, head);
    rotate_row(head, layer.cos + size_t(position) * dim, layer.sin + size_t(position) * dim, dim);
  }

  using Tasks = std::vector<AttentionTask>;

  void attend(const Layer& layer, const PenstockStep& asked, const Tasks& tasks, int task, int thread) {
    switch (static_cast<KvType>(shape.kv_type)) {
      case KvType::FLOAT32: return attend_as<float>(layer, asked, tasks, task, thread);
      case KvType::BFLOAT16: return attend_as<uint16_t>(layer, asked, tasks, task, thread);
      case KvType::INT8: return attend_as<int8_t>(layer, asked, tasks, task, thread);
    }
  }

  template <class T>
  void attend_as(const Layer& layer, const PenstockStep& asked, const Tasks& tasks, int index, int thread) {
    const AttentionTask& task = tasks[index];
    const AttentionTask& next = tasks[std::min<int>(index + team.size(), tasks.size() - 1)];
    auto cache = [&](const AttentionTask& of) {
      const int32_t* blocks = asked.blocks + size_t(of.sequence) * asked.block_columns;
      return cache_of<T>(shape, layer, blocks, of.head / (shape.heads / shape.kv_heads));
    };
    Queries queries = queries_of(layer, task);
    Cache<T> kv = cache(task);
    if (task.chooses) choose(layer, task, thread, queries, kv);
    if (next.chooses)  // nobody knows yet what: nothing else is fetched meanwhile
      Attention::attend(queries, kv, queries, kv, products_.scratch(thread));
    else
      Attention::attend(queries, kv, queries_of(layer, next), cache(next), products_.scratch(thread));
  }

  // Let a token read the blocks that it chooses as if there were no others. Where these lay does not
  // matter any more: keys were turned by their positions when they were stored.
  template <class T>
  void choose(const Layer& layer, const AttentionTask& task, int thread, Queries& queries, Cache<T>& kv) {
    if constexpr (!Cache<T>::SCALED) {
      const int group = shape.heads / shape.kv_heads, head = task.head / group;
      const float* first = qkv_.as<float>() + size_t(task.row) * qkv_width() + size_t(head) * group * shape.head_dim;
      kv.blocks = selections_[thread].choose<T>(shape, layer, first, head, kv.blocks, task.position);
      queries.first_position = (shape.sparse_blocks - 1) * shape.block_size + task.position % shape.block_size;
    }
  }

  Queries queries_of(const Layer& layer, const AttentionTask& task) const {
    const int dim = shape.head_dim;
    const size_t head = task.head;
    const size_t row = task.row % part_rows();
    const float* query = shape.rank ? latents_.absorbed() : qkv_.as<float>();
    float* out = shape.rank ? latents_.found() : attended_.as<float>();
    const size_t query_stride = shape.rank ? query_width() : qkv_width();
    const size_t out_stride = size_t(shape.heads) * value_dim();
    return {query + row * query_stride + head * dim, out + row * out_stride + head * value_dim(),
            task.tokens, task.heads, dim, value_dim(), query_stride, out_stride,
            task.position, layer.window, shape.query_scale, shape.score_cap, 0, features.read()};
  }

  // The head: logits where they are wanted, and each row's likeliest token.
  void finish(const PenstockStep& asked, int thread) {
    products_.pack_normed(outputs_.as<float>(), shape.hidden, norm, head.kind, asked.outputs, thread);
    products_.multiply(head, thread, [&](int row, int column, int count, const float* y) {
      if (asked.logits) copy(y, count, asked.logits + size_t(row) * shape.vocab + column);
      likeliest_.take(thread, row, column, count, y);
    });
  }

  Likeliest likeliest_;
  Memory x_, qkv_, attended_, inner_, outputs_;  // rows of a pass
  Memory joined_;                                // of features: what is fused, or a head's inputs
  Plan plan_;
  Products products_;
  Latents latents_;  // of no use in other models
  Sparse sparse_;
  std::vector<Selection> selections_;  // of each thread, where blocks are chosen
};

}  // namespace
