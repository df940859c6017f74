// Kernels of recurrent layers: blocks of state rows over all steps of one call. Callable from inside a parallel region.
//
// A state row never meets another one, so rows are the unit of work. Every step does the same operations in the same
// order whatever the number of steps, rows or threads: a call cut in two gives the same bits. Arithmetic is float32; a
// state kept in a half type is rounded to it after every step, as separate calls for each step would do.
#pragma once

#include "dispatch.h"
#include "types.h"

namespace mlx_lm {

constexpr int64_t state_rows = 32;  // rows of one block, at most

// One vector (or scalar) for each step, `step` bytes apart.
struct Steps {
  const char* data;
  Float type;
  int64_t step;
};

// What every recurrence has: `rows` state rows of `width`, row-major; `state` null for zeros.
struct StateBlock {
  int64_t length;
  int64_t rows;
  int64_t width;
  const char* state;
  char* new_state;
  Float state_type;
  char* y;  // `rows` values for each step, y_step bytes apart
  Float y_type;
  int64_t y_step;
  float* scratch;  // state_scratch(width) floats, 64-byte aligned
};

constexpr int64_t state_scratch(int64_t width) {
  return (state_rows + 3) * ((width + 15) / 16 * 16);
}

struct DeltaBlock {
  StateBlock base;
  Steps q, k;  // width
  Steps v;     // rows
  Steps decay;  // logarithms: width when per_channel, else one
  Steps beta;   // one
  bool per_channel;
};

struct ScanBlock {
  StateBlock base;
  Steps x;     // rows
  Steps dt;    // rows when diagonal, else one
  Steps b, c;  // width
  const float* a;  // (rows, width) when diagonal, else one
  const float* d;  // rows when diagonal, else one; null for none
  bool diagonal;
};

constexpr int64_t conv_channels = 64;  // channels of one block, at most

struct ConvBlock {
  int64_t begin, end;  // steps
  int64_t channels;
  int64_t kernel;
  Steps x, state;      // channels; state holds the kernel - 1 inputs before x
  const char* weight;  // (channels, kernel)
  Float weight_type;
  const char* bias;    // channels, or null
  Float bias_type;
  char* y;             // of step `begin`
  Float y_type;
  int64_t y_step;
  float* scratch;      // 2 * conv_channels * kernel floats
};

struct RecurrentKernels {
  // S <- S exp(decay); S <- S + beta (v - S k) k^T; y = S q
  void (*gated_delta)(const DeltaBlock& block);
  // S <- S exp(dt a) + dt x b^T; y = S c + d x
  void (*scan)(const ScanBlock& block);
  void (*causal_conv)(const ConvBlock& block);
};
MLX_LM_KERNEL_TABLE(RecurrentKernels, recurrent_kernels)

}  // namespace mlx_lm
