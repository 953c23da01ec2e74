// The softmax of a row whose scores come in chunks (Milakov & Gimelshein, 2018).

#pragma once

#include <algorithm>
#include <cmath>

#include "cache.h"
#include "functions.h"
#include "vectors.h"

namespace {

// Running maximum and sum of a row's softmax; returns what earlier results must be scaled with.
struct Softmax {
  float top = -INFINITY, total = 0;

  // scores[CHUNK] become weights; those outside [from, seen) are zero. One at least must be inside.
  float absorb(float* scores, int from, int seen) {
    for (int c = 0; c < from; c++) scores[c] = -INFINITY;
    for (int c = seen; c < CHUNK; c++) scores[c] = -INFINITY;
    Floats high = load<Floats>(scores);
    for (int c = W; c < CHUNK; c += W) high = max(high, load<Floats>(scores + c));
    const float now = std::max(top, largest(high));
    const float keep = std::exp(top - now);
    Floats added = {};
    for (int c = 0; c < CHUNK; c += W) {
      const Floats raw = load<Floats>(scores + c);
      const Floats weight = raw == all(-INFINITY) ? Floats{} : exp(raw - now);
      added += weight;
      store(scores + c, weight);
    }
    total = total * keep + sum(added);
    top = now;
    return keep;
  }
};

}  // namespace
