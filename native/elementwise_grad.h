// Gradients of what elementwise.h computes, one row at a time; all arithmetic is float32.
#pragma once

#include "dispatch.h"
#include "elementwise.h"
#include "types.h"

namespace mlx_lm {

struct NormGradient {
  bool centred;         // layer norm, else root mean square
  const float* weight;  // null for ones
  float eps;
  int64_t n;
  Float x_type, dy_type;  // dx has x's
};

struct ActivationGradient {
  Act act;
  Float gate_type, up_type, dy_type;  // dgate and dup have the types of gate and up
};

struct GradientKernels {
  // Writes dx; adds this row's part to dweight and dbias, which may be null.
  void (*norm)(const NormGradient& o, const void* x, const void* dy, void* dx, float* dweight, float* dbias);
  // up and dup null: no gate.
  void (*activate)(const ActivationGradient& o, const void* gate, const void* up, const void* dy, void* dgate,
                   void* dup, int64_t n);
};
MLX_LM_KERNEL_TABLE(GradientKernels, gradient_kernels)

}  // namespace mlx_lm
