// Plain types that both the primitives and the per-instruction-set kernels use. No MLX, no library templates.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mlx_lm {

// Element types of activations, dense weights, scales and biases.
enum class Float : uint8_t { f32, bf16, f16 };

constexpr int64_t float_bytes(Float type) {
  return type == Float::f32 ? 4 : 2;
}

}  // namespace mlx_lm
