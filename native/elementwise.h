// Kernels for one row: norms, rotation, activations. Callable from inside a parallel region.
//
// All arithmetic is float32 with one rounding at the end; a row's result does not depend on other rows. Weights and
// biases of norms are float32 here: callers convert them once.
#pragma once

#if !defined(MLX_LM_ISA)
#include <string>
#endif

#include "dispatch.h"
#include "types.h"

namespace mlx_lm {

enum class Act : uint8_t { none, silu, gelu, gelu_tanh, quick_gelu, relu, relu2, sigmoid, tanh };

struct RowKernels {
  // y = x / rms(x) * weight; weight null for ones.
  void (*rms_norm)(const void* x, Float x_type, const float* weight, float eps, int64_t n, void* y, Float y_type);
  // y = (x - mean) / std * weight + bias; weight and bias may be null.
  void (*layer_norm)(const void* x, Float x_type, const float* weight, const float* bias, float eps, int64_t n,
                     void* y, Float y_type);
  // y = act(gate) * up; up may be null. y may be gate or up.
  void (*activate)(Act act, const void* gate, Float gate_type, const void* up, Float up_type, int64_t n, void* y,
                   Float y_type);
  // Rotates the first `dims` of n features by the angles whose cosines and sines are given (dims / 2 each), times
  // `scale`; copies the rest. Pairs are (i, i + dims/2), or (2i, 2i + 1) when traditional. y must not overlap x.
  void (*rotate)(const void* x, Float x_type, const float* cosines, const float* sines, float scale, int64_t dims,
                 bool traditional, int64_t n, void* y, Float y_type);
  // x += scale * (y + bias); bias may be null.
  void (*add)(float* x, const float* y, const float* bias, float scale, int64_t n);
  void (*convert)(const void* x, Float x_type, int64_t n, void* y, Float y_type);
  // Index of the first largest value; a NaN counts as the largest.
  int64_t (*argmax)(const void* x, Float x_type, int64_t n);
};
MLX_LM_KERNEL_TABLE(RowKernels, row_kernels)

#if !defined(MLX_LM_ISA)
// Throws std::invalid_argument for an unknown name.
Act act_by_name(const std::string& name);
#endif

}  // namespace mlx_lm
