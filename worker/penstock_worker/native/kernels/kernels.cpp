// A whole step of a model on a CPU, behind a C interface: what Python calls once per step.
//
// Why one call: at 60 million parameters a step takes two milliseconds, and a framework's dispatch
// of some hundred operators takes as long. Here a team of threads walks through the layers
// together, with a barrier between phases; nothing is allocated and nothing is dispatched.
//
//   vectors, bfloat16, functions    what the instruction set has, and exp
//   memory, team                    buffers and threads
//   words, tiles                    the innermost loop of every matrix product
//   inputs, int4, adapters, linear  a linear layer
//   cache, bytes, pool, packing     the paged KV, in whatever it is stored
//   softmax, attention              attention over it
//   selection                       the part of it that an answer's tokens read
//   rows, plan, products, heads     what a pass does to rows
//   likeliest                       which token a row ends in
//   experts, sparse                 layers with experts
//   features                        what heads guess by
//   latents, decoder, encoder       the models
//
// All of it is one translation unit, compiled once per instruction-set level (see levels.py): W, the
// number of floats in a vector, and the dot-product instructions follow from the compiler's flags.
// Everything but the interface is in unnamed namespaces: what only this library calls may be inlined.

#include <algorithm>
#include <array>
#include <cstddef>
#include <exception>
#include <utility>
#include <vector>

#include "adapters.h"
#include "decoder.h"
#include "encoder.h"
#include "interface.h"
#include "linear.h"

struct PenstockDecoder : Decoder {
  using Decoder::Decoder;
};

struct PenstockEncoder : Encoder {
  using Encoder::Encoder;
};

namespace {

constexpr int ADAPTED = 5;  // linear layers of a layer that adapters may change: qkv to down

struct AdapterPart {
  Reduction reduction;
  std::vector<Expansion> expansions;
};

}  // namespace

struct PenstockAdapter {
  explicit PenstockAdapter(size_t layers) : parts(layers) {}
  std::vector<std::array<AdapterPart, ADAPTED>> parts;
};

namespace {

int32_t set(Team& team, Linear& to, int32_t kind, int32_t outputs, int32_t inputs, const float* weight,
            const float* bias) {
  try {
    to.shape(static_cast<Kind>(kind), outputs, inputs);
  } catch (const std::exception&) {
    return 1;
  }
  if (bias) to.set_bias(bias);
  auto work = [&](int) {
    team.each(to.panels(), [&](int panel) { to.pack(panel, weight); });
  };
  team.run(work);
  return 0;
}

}  // namespace

extern "C" {

PenstockDecoder* penstock_create(const PenstockShape* shape) {
  try {
    return new PenstockDecoder(*shape);
  } catch (const std::exception&) {
    return nullptr;
  }
}

void penstock_destroy(PenstockDecoder* decoder) { delete decoder; }

// The caller keeps these arrays alive.
void penstock_set_tables(PenstockDecoder* decoder, const void* embedding, int32_t embedding_bf16,
                         const float* norm) {
  decoder->embedding = embedding;
  decoder->embedding_bf16 = embedding_bf16;
  decoder->norm = norm;
}

void penstock_set_layer(PenstockDecoder* decoder, int32_t layer, const PenstockLayer* of) {
  static_cast<PenstockLayer&>(decoder->layers[layer]) = *of;
}

void penstock_set_features(PenstockDecoder* decoder, const PenstockFeatures* of) {
  static_cast<PenstockFeatures&>(decoder->features) = *of;
}

// The layer has experts; their weights follow.
int32_t penstock_set_experts(PenstockDecoder* decoder, int32_t layer, const PenstockExperts* of) {
  try {
    decoder->layers[layer].experts.set(*of);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

// Pack a float32 weight [outputs][inputs]; `which` is qkv, output, gate, up, down; -1
// is the head, -2 what fuses features.
int32_t penstock_set_linear(PenstockDecoder* decoder, int32_t layer, int32_t which, int32_t kind,
                            int32_t outputs, int32_t inputs, const float* weight, const float* bias) {
  Linear& to = which == -2 ? decoder->fusion : which < 0 ? decoder->head : decoder->layers[layer].linear(which);
  return set(decoder->team, to, kind, outputs, inputs, weight, bias);
}

// The same of an expert's gate, up or down, the shared one being the last; expert -1 is the router.
int32_t penstock_set_expert(PenstockDecoder* decoder, int32_t layer, int32_t expert, int32_t which,
                            int32_t kind, int32_t outputs, int32_t inputs, const float* weight) {
  Experts& experts = decoder->layers[layer].experts;
  Linear& to = expert < 0 ? experts.router : experts.all[expert].linear(which);
  return set(decoder->team, to, kind, outputs, inputs, weight, nullptr);
}

// The same of what makes heads' keys or values of latents: [heads][outputs][inputs].
int32_t penstock_set_expansion(PenstockDecoder* decoder, int32_t layer, int32_t of_values, int32_t kind,
                               int32_t outputs, int32_t inputs, const float* weight) {
  LatentLinears& latent = decoder->layers[layer].latent;
  std::vector<Linear>& heads = of_values ? latent.values : latent.keys;
  try {
    heads.resize(decoder->shape.heads);
    for (Linear& head : heads) head.shape(static_cast<Kind>(kind), outputs, inputs);
  } catch (const std::exception&) {
    return 1;
  }
  auto work = [&](int) {
    decoder->team.each(heads.size(), [&](int head) {
      const float* from = weight + size_t(head) * outputs * inputs;
      for (int panel = 0; panel < heads[head].panels(); panel++) heads[head].pack(panel, from);
    });
  };
  decoder->team.run(work);
  return 0;
}

// An adapter for a decoder, made beside its steps: nothing of the decoder is changed until it is put.
PenstockAdapter* penstock_create_adapter(const PenstockDecoder* decoder) {
  try {
    return new PenstockAdapter(decoder->layers.size());
  } catch (const std::exception&) {
    return nullptr;
  }
}

void penstock_destroy_adapter(PenstockAdapter* adapter) { delete adapter; }

// It multiplies the inputs of a linear layer with `a`, [rank][inputs], which the caller keeps alive;
// that of gate is for up, too.
void penstock_set_reduction(PenstockAdapter* adapter, int32_t layer, int32_t which, int32_t rank, const float* a) {
  adapter->parts[layer][which].reduction = {a, rank};
}

// ... and adds ranks [at, at + rank) of that, times `b`, [outputs][rank], to outputs from `first` on.
int32_t penstock_add_expansion(PenstockAdapter* adapter, int32_t layer, int32_t which, int32_t at, int32_t rank,
                               int32_t first, int32_t outputs, const float* b) {
  try {
    adapter->parts[layer][which].expansions.emplace_back(at, rank, first, outputs, b);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

// Between two steps: let rows have it, under a number that is free. What it was made of moves.
int32_t penstock_put_adapter(PenstockDecoder* decoder, int32_t number, PenstockAdapter* adapter) {
  try {
    for (auto& layer : decoder->layers)
      for (int which = 0; which < ADAPTED; which++) layer.linear(which).room_for(number);
  } catch (const std::exception&) {
    return 1;
  }
  for (size_t layer = 0; layer < decoder->layers.size(); layer++)
    for (int which = 0; which < ADAPTED; which++) {
      AdapterPart& part = adapter->parts[layer][which];
      Linear& linear = decoder->layers[layer].linear(which);
      linear.reductions[number] = part.reduction;
      linear.expansions[number] = std::move(part.expansions);
      decoder->most_ranks = std::max(decoder->most_ranks, part.reduction.rank);
    }
  return 0;
}

// Between two steps: no row has it any more; its number is free, and `a` may go.
void penstock_drop_adapter(PenstockDecoder* decoder, int32_t number) {
  for (auto& layer : decoder->layers)
    for (int which = 0; which < ADAPTED; which++) {
      Linear& linear = layer.linear(which);
      linear.reductions[number] = {};
      linear.expansions[number] = {};
    }
}

int32_t penstock_step(PenstockDecoder* decoder, const PenstockStep* step) {
  try {
    decoder->step(*step);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

PenstockEncoder* penstock_create_encoder(const PenstockEncoderShape* shape, const PenstockEncoderTables* tables) {
  try {
    return new PenstockEncoder(*shape, *tables);
  } catch (const std::exception&) {
    return nullptr;
  }
}

void penstock_destroy_encoder(PenstockEncoder* encoder) { delete encoder; }

void penstock_set_encoder_layer(PenstockEncoder* encoder, int32_t layer, const PenstockEncoderLayer* of) {
  static_cast<PenstockEncoderLayer&>(encoder->layers[layer]) = *of;
}

// `which` is qkv, output, up or down.
int32_t penstock_set_encoder_linear(PenstockEncoder* encoder, int32_t layer, int32_t which, int32_t kind,
                                    int32_t outputs, int32_t inputs, const float* weight, const float* bias) {
  return set(encoder->team, encoder->layers[layer].linear(which), kind, outputs, inputs, weight, bias);
}

int32_t penstock_encode(PenstockEncoder* encoder, const PenstockEncoderStep* step) {
  try {
    encoder->step(*step);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

}  // extern "C"
