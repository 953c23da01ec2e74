// What is done to one row at a time: norms and rotary positions.

#pragma once

#include <cmath>

#include "functions.h"

namespace {

// to = from, RMS-normed (Zhang & Sennrich, 2019).
inline void norm_row(const float* from, const float* weight, int width, float eps, float* to) {
  const float scale = 1.0f / std::sqrt(dot(from, from, width) / width + eps);
  for (int i = 0; i < width; i++) to[i] = from[i] * scale * weight[i];
}

// Layer-normed in place (Ba et al., 2016).
inline void layer_norm_row(float* row, const float* weight, const float* bias, int width, float eps) {
  const float mean = total(row, width) / width;
  for (int i = 0; i < width; i++) row[i] -= mean;
  const float scale = 1.0f / std::sqrt(dot(row, row, width) / width + eps);
  for (int i = 0; i < width; i++) row[i] = row[i] * scale * weight[i] + bias[i];
}

// Turn a head by its position (Su et al., "RoFormer", 2021); the first half of `sin` is negated, as
// in PyTorch's path, and not read.
inline void rotate_row(float* head, const float* cos, const float* sin, int dim) {
  const int half = dim / 2;
  for (int i = 0; i < half; i++) {
    const float a = head[i], b = head[i + half];
    head[i] = a * cos[i] - b * sin[half + i];
    head[i + half] = b * cos[i] + a * sin[half + i];
  }
}

}  // namespace
