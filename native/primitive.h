// What every MLX primitive here needs: dtype names, contiguous operands, a task on the CPU stream.
//
//     class Scale : public CpuPrimitive {                      // see linear.cpp for complete examples
//       void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
//         allocate(outputs[0]);
//         auto x = Operand::of(inputs[0]);
//         submit([x, out = outputs[0].data<float>(), n = inputs[0].size()] {
//           std::vector<char> copy; const float* p = x.contiguous<float>(copy);
//           parallel([&](Team& team) { Range r = team.share(n, 16); ... });
//         });
//       }
//       DEFINE_NAME(Scale)
//     };
//
// The task runs later, on the stream's thread, after the tasks that produce its inputs; MLX keeps inputs and outputs
// alive until then.
#pragma once

#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "mlx/allocator.h"
#include "mlx/array.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "mlx/utils.h"
#include "types.h"

namespace mlx_lm {

namespace mx = mlx::core;

inline bool is_kernel_float(mx::Dtype type) {
  return type == mx::float32 || type == mx::bfloat16 || type == mx::float16;
}

inline Float float_type(mx::Dtype type) {
  if (type == mx::float32) {
    return Float::f32;
  }
  if (type == mx::bfloat16) {
    return Float::bf16;
  }
  if (type == mx::float16) {
    return Float::f16;
  }
  throw std::invalid_argument("expected float32, bfloat16 or float16");
}

// An input as a raw pointer with its strides, copied into row-major order only when it is not already so.
struct Operand {
  const char* data;
  mx::Shape shape;
  mx::Strides strides;
  size_t item;
  bool row_contiguous;

  static Operand of(const mx::array& a) {
    return {a.data<char>(), a.shape(), a.strides(), a.itemsize(), a.flags().row_contiguous};
  }

  size_t size() const {
    size_t n = 1;
    for (auto d : shape) {
      n *= static_cast<size_t>(d);
    }
    return n;
  }

  template <class T>
  const T* contiguous(std::vector<char>& storage) const {
    if (row_contiguous || size() == 0) {
      return reinterpret_cast<const T*>(data);
    }
    storage.resize(size() * item);
    char* to = storage.data();
    copy(0, data, to);
    return reinterpret_cast<const T*>(storage.data());
  }

 private:
  void copy(size_t axis, const char* from, char*& to) const {
    if (axis == shape.size()) {
      std::memcpy(to, from, item);
      to += item;
      return;
    }
    auto step = static_cast<int64_t>(strides[axis]) * static_cast<int64_t>(item);
    if (axis + 1 == shape.size() && step == static_cast<int64_t>(item)) {
      std::memcpy(to, from, item * static_cast<size_t>(shape[axis]));
      to += item * static_cast<size_t>(shape[axis]);
      return;
    }
    for (int64_t i = 0; i < shape[axis]; ++i) {
      copy(axis + 1, from + i * step, to);
    }
  }
};

inline void allocate(mx::array& out) {
  out.set_data(mx::allocator::malloc(out.nbytes()));
}

// vmap as a loop: each slice of the mapped inputs through `make`, outputs stacked along a new first axis.
template <class Make>
std::pair<std::vector<mx::array>, std::vector<int>> looped_vmap(const std::vector<mx::array>& inputs,
                                                                const std::vector<int>& axes, mx::Stream stream,
                                                                Make&& make) {
  int count = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    count = axes[i] >= 0 ? inputs[i].shape(axes[i]) : count;
  }
  std::vector<std::vector<mx::array>> columns;
  for (int at = 0; at < count; ++at) {
    std::vector<mx::array> slice = inputs;
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (axes[i] >= 0) {
        slice[i] = mx::take(inputs[i], at, axes[i], stream);
      }
    }
    std::vector<mx::array> made = make(std::move(slice));
    columns.resize(made.size());
    for (size_t i = 0; i < made.size(); ++i) {
      columns[i].push_back(made[i]);
    }
  }
  std::vector<mx::array> outputs;
  for (const auto& column : columns) {
    outputs.push_back(mx::stack(column, 0, stream));
  }
  return {outputs, std::vector<int>(outputs.size(), 0)};
}

// CPU only; no jvp or vmap unless a subclass adds them (callers use the plain expression there).
class CpuPrimitive : public mx::Primitive {
 public:
  explicit CpuPrimitive(mx::Stream stream) : mx::Primitive(stream) {
    if (stream.device != mx::Device::cpu) {
      throw std::invalid_argument("mlx_lm native kernels run on the CPU device only");
    }
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error(std::string("mlx_lm native kernel ") + name() + " has no GPU implementation");
  }

 protected:
  template <class Task>
  void submit(Task&& task) {
    mx::cpu::get_command_encoder(stream()).dispatch(std::forward<Task>(task));
  }
};

// The accuracy mode for operations built from now on: activations in 8 bit, or pairs of bf16 (linear.h, attention.h).
bool fast_activations();

inline mx::Stream cpu_stream() {
  return mx::default_stream(mx::Device::cpu);
}

}  // namespace mlx_lm
