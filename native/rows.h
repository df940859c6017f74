// Operands as rows of the last axis, for primitives that work row by row.
#pragma once

#include <optional>
#include <vector>

#include "elementwise.h"
#include "primitive.h"

namespace mlx_lm {

// The rows (last axis) of a strided array; copied where the last axis is not contiguous.
class RowSource {
 public:
  RowSource(const Operand& operand, std::vector<char>& copy)
      : data_(operand.data), item_(static_cast<int64_t>(operand.item)), shape_(operand.shape),
        strides_(operand.strides), contiguous_(operand.row_contiguous) {
    if (!contiguous_ && shape_.back() > 1 && strides_.back() != 1) {
      data_ = operand.contiguous<char>(copy);
      contiguous_ = true;
    }
  }
  int64_t width() const { return shape_.back(); }
  int64_t count() const {
    int64_t n = 1;
    for (size_t i = 0; i + 1 < shape_.size(); ++i) {
      n *= shape_[i];
    }
    return n;
  }
  const char* row(int64_t index) const {
    if (contiguous_) {
      return data_ + index * width() * item_;
    }
    int64_t offset = 0;
    for (int axis = static_cast<int>(shape_.size()) - 2; axis >= 0; --axis) {
      auto at = static_cast<size_t>(axis);
      offset += index % shape_[at] * strides_[at];
      index /= shape_[at];
    }
    return data_ + offset * item_;
  }

 private:
  const char* data_;
  int64_t item_;
  mx::Shape shape_;
  mx::Strides strides_;
  bool contiguous_;
};

// A small vector as float32, plus an offset.
inline std::vector<float> as_floats(const std::optional<Operand>& a, Float type, float offset) {
  std::vector<float> to;
  if (a) {
    std::vector<char> copy;
    const char* from = a->contiguous<char>(copy);
    to.resize(a->size());
    row_kernels().convert(from, type, static_cast<int64_t>(a->size()), to.data(), Float::f32);
    if (offset != 0.0f) {
      for (float& v : to) {
        v += offset;
      }
    }
  }
  return to;
}

inline std::optional<Operand> maybe(const std::vector<mx::array>& inputs, bool there, size_t at) {
  return there ? std::optional<Operand>(Operand::of(inputs[at])) : std::nullopt;
}

struct NormOptions {
  bool layer;  // layer norm, else root mean square
  bool weight;
  bool bias;
  float eps;
  float offset;
  bool operator==(const NormOptions& o) const {
    return layer == o.layer && weight == o.weight && bias == o.bias && eps == o.eps && offset == o.offset;
  }
};

// Gradients for the chosen inputs of a norm (x, then weight and bias where there are) and of an activation (gate, up).
std::vector<mx::array> norm_gradients(mx::Stream stream, const NormOptions& options,
                                      const std::vector<mx::array>& inputs, const mx::array& dy,
                                      const std::vector<int>& argnums);
std::vector<mx::array> activation_gradients(mx::Stream stream, Act act, const std::vector<mx::array>& inputs,
                                            const mx::array& dy, const std::vector<int>& argnums);

}  // namespace mlx_lm
