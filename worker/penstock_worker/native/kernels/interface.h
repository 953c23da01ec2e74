// What Python hands over: plain C structures.

#pragma once

#include <cstdint>

extern "C" {

// Mirrored in library.py, field by field.
struct PenstockShape {
  int32_t vocab, hidden, inner, layers, heads, kv_heads, head_dim, block_size, qk_norm, kv_type, threads, gelu;
  // kv_type: 0 float, 1 bfloat16, 2 int8 with scales.
  // Of latent attention, where rank is not 0: there is one KV head, head_dim = rank + rotary wide.
  int32_t query_rank, rank, plain, rotary, value_dim;  // query_rank: 0 where queries are made directly
  int32_t sparse_blocks;  // that a token of an answer reads; 0: all
  float eps, embedding_scale, query_scale, score_cap;  // score_cap: 0 for none
};

struct PenstockLayer {
  const float *input_norm, *mlp_norm;
  const float *query_key_norm, *attention_post_norm, *mlp_post_norm;  // null where there is none
  const float *query_norm, *latent_norm;                              // of latent attention
  const float *cos, *sin;                                             // [positions][head_dim or rotary]
  void *keys, *values;  // the pool: [slots][kv_heads][head_dim]; values may lie in keys
  float *key_scales, *value_scales;  // of bytes: [blocks][kv_heads][block_size]
  void* bounds;         // of keys: [blocks][kv_heads][2][head_dim]; null where all blocks are read
  int32_t window;       // positions that a token sees, 0 for all
};

struct PenstockExperts {  // of a layer
  int32_t count, per_token, inner, shared_inner;  // shared_inner: 0 where none are shared
  int32_t sigmoid, normalized, groups, chosen_groups, group_best, shared_gated;
  float scaling;
  const float* correction_bias;  // [count], null where there is none
};

struct PenstockFeatures {  // what a head guesses by; no pool where there is none
  uint16_t* pool;            // [slots][hidden], bfloat16
  const float* hidden_norm;  // a head's; null in the model
  int32_t normed;            // a head's residual begins with what was normed
  int32_t taps[3];           // layers of the model whose inputs are fused; `layers`: what the last one gives
};

struct PenstockStep {
  int32_t rows, sequences, outputs, block_columns;
  const int32_t *tokens, *positions;         // [rows]
  const int32_t *first_row, *count, *computed;  // [sequences]
  const int32_t* blocks;                     // [sequences][block_columns]
  const int32_t* adapters;                   // [sequences], -1 for none; null where there are none
  const int32_t* prompts;                    // [sequences], their tokens; null where nothing is sparse
  const int32_t* output_rows;                // [outputs], ascending
  int32_t* greedy;                           // [outputs], the likeliest token
  float* logits;                             // [outputs][vocab], or null where only greedy is wanted
};

struct PenstockEncoderShape {
  int32_t hidden, inner, layers, heads, threads;
  int32_t activation;  // 0 gelu, 1 gelu_tanh, 2 relu, 3 silu
  int32_t words_bf16, first_position;
  float eps;
};

struct PenstockEncoderTables {
  const void* words;  // [vocab][hidden], of float or bfloat16
  const float *positions, *types, *norm, *norm_bias;
};

struct PenstockEncoderLayer {
  const float *attention_norm, *attention_norm_bias, *norm, *norm_bias;
};

struct PenstockEncoderStep {
  int32_t inputs;
  const int64_t* lengths;                      // [inputs]
  const int64_t *tokens, *positions, *types;   // [rows]; types may be null: all of the first
  float* states;                               // [rows][hidden]: what is found
};

}  // extern "C"
