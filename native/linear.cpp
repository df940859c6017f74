// MLX primitives for matrix products with dense and quantized weights, plain and gathered by expert.
#include "linear_run.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <optional>

#include "bind.h"
#include "mlx/ops.h"
#include "pool.h"
#include "primitive.h"
#include "workspace.h"

namespace nb = nanobind;

namespace mlx_lm {

namespace {
std::atomic<bool> fast{false};
}

bool fast_activations() {
  return fast.load();
}

namespace {

class MatrixProduct : public CpuPrimitive {
 public:
  MatrixProduct(mx::Stream stream, Product product) : CpuPrimitive(stream), product_(product) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::array& out = outputs[0];
    allocate(out);
    if (out.size() == 0) {
      return;
    }
    const bool dense = product_.weight.format == Format::dense, affine = product_.weight.format == Format::affine;
    size_t next = 2;
    std::optional<Operand> scales, biases, indices;
    Operand x = Operand::of(inputs[0]), w = Operand::of(inputs[1]);
    Float type = dense ? float_type(inputs[1].dtype()) : Float::f32;
    if (!dense) {
      if (affine) {
        type = float_type(inputs[next].dtype());
      }
      scales = Operand::of(inputs[next++]);
      if (affine) {
        biases = Operand::of(inputs[next++]);
      }
    }
    if (product_.gathered) {
      indices = Operand::of(inputs[next++]);
    }
    submit([product = product_, x, w, scales, biases, indices, type, x_type = float_type(inputs[0].dtype()),
            y_type = float_type(out.dtype()), y = out.data<char>(), shape = out.shape()] {
      run(product, x, w, scales, biases, indices, type, x_type, y_type, y, shape);
    });
  }

  static void run(const Product& product, const Operand& x, const Operand& w, const std::optional<Operand>& scales,
                  const std::optional<Operand>& biases, const std::optional<Operand>& indices, Float type, Float x_type,
                  Float y_type, char* y, const mx::Shape& shape) {
    Buffers copies;
    const char* xp = x.contiguous<char>(copies.x);
    const char* wp = w.contiguous<char>(copies.w);
    const char* sp = scales ? scales->contiguous<char>(copies.scales) : nullptr;
    const char* bp = biases ? biases->contiguous<char>(copies.biases) : nullptr;
    Weight weight = product.weight;
    const int64_t n = w.shape[w.shape.size() - 2];
    const int64_t words = w.shape.back();
    const int64_t k = weight.format == Format::dense ? words : words * 32 / weight.bits;
    const int64_t inner = x.shape.back(), columns = shape.back();
    if (inner == 0) {
      std::memset(y, 0, static_cast<size_t>(size_of(shape)) * static_cast<size_t>(float_bytes(y_type)));
      return;
    }
    if (!product.transpose && weight.interleaved) {
      int64_t rows = static_cast<int64_t>(w.size()) / words, item = static_cast<int64_t>(w.item);
      wp = undo_interleaving(wp, rows, words, item, copies.plain_w);
      if (sp != nullptr) {
        sp = undo_interleaving(sp, rows, k / weight.group, static_cast<int64_t>(scales->item), copies.plain_scales);
      }
      if (bp != nullptr) {
        bp = undo_interleaving(bp, rows, k / weight.group, static_cast<int64_t>(biases->item), copies.plain_biases);
      }
      weight.interleaved = false;
    }
    if (!product.gathered) {
      std::vector<Matrix> matrices = {matrix_at(weight, type, wp, sp, bp, n, k, 0)};
      std::vector<Segment> segments = {{0, 0, size_of(shape) / columns}};
      run_segments(matrices, segments, product, xp, x_type, inner, nullptr, y, y_type, columns);
      return;
    }
    run_gathered(product, weight, type, wp, sp, bp, n, k, x.shape, xp, x_type, *indices, copies, y, y_type, shape);
  }

  // Sorts the (row, expert) pairs by expert, multiplies each expert once, and scatters the rows back.
  static void run_gathered(const Product& product, const Weight& weight, Float type, const char* wp, const char* sp,
                           const char* bp, int64_t n, int64_t k, const mx::Shape& x_shape, const char* x, Float x_type,
                           const Operand& indices, Buffers& copies, char* y, Float y_type, const mx::Shape& shape) {
    const auto* expert_of = indices.contiguous<uint32_t>(copies.indices);
    const int64_t columns = shape.back(), m = shape[shape.size() - 2], inner = x_shape.back();
    const int64_t batches = size_of(shape) / (m * columns);
    const mx::Shape batch(shape.begin(), shape.end() - 2);
    const mx::Shape x_batch(x_shape.begin(), x_shape.end() - 2);
    std::vector<int64_t> x_at = broadcast_positions(x_batch, batch), e_at = broadcast_positions(indices.shape, batch);
    std::vector<int64_t> order(static_cast<size_t>(batches));
    std::iota(order.begin(), order.end(), 0);
    auto expert = [&](int64_t b) { return expert_of[e_at[static_cast<size_t>(b)]]; };
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return expert(a) < expert(b); });
    std::vector<int32_t> index;
    std::vector<Segment> segments;
    std::vector<Matrix> matrices;
    for (int64_t b : order) {
      int64_t e = expert(b);
      if (segments.empty() || segments.back().expert != e) {
        segments.push_back({e, static_cast<int64_t>(index.size()), 0});
        matrices.push_back(matrix_at(weight, type, wp, sp, bp, n, k, e));
      }
      segments.back().count += m;
      for (int64_t i = 0; i < m; ++i) {
        index.push_back(static_cast<int32_t>(x_at[static_cast<size_t>(b)] * m + i));
      }
    }
    bool in_order = std::is_sorted(order.begin(), order.end());
    int64_t row_bytes = columns * float_bytes(y_type);
    std::vector<char> sorted(in_order ? 0 : static_cast<size_t>(batches * m * row_bytes));
    run_segments(matrices, segments, product, x, x_type, inner, index.data(), in_order ? y : sorted.data(), y_type,
                 columns);
    if (!in_order) {
      for (int64_t i = 0; i < batches; ++i) {
        std::memcpy(y + order[static_cast<size_t>(i)] * m * row_bytes, sorted.data() + i * m * row_bytes,
                    static_cast<size_t>(m * row_bytes));
      }
    }
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>&) override;

  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override;

  const char* name() const override { return "MlxLmMatrixProduct"; }

  bool is_equivalent(const mx::Primitive& other) const override {
    return product_ == static_cast<const MatrixProduct&>(other).product_;
  }

 private:
  static int64_t size_of(const mx::Shape& shape) {
    int64_t n = 1;
    for (auto d : shape) {
      n *= d;
    }
    return n;
  }

  // For every position of `to` in row-major order, the row-major position in `from`, which broadcasts to it.
  static std::vector<int64_t> broadcast_positions(const mx::Shape& from, const mx::Shape& to) {
    std::vector<int64_t> positions = {0};
    int64_t stride = size_of(from);
    size_t lead = to.size() - from.size();
    for (size_t axis = 0; axis < to.size(); ++axis) {
      int64_t step = 0;
      if (axis >= lead) {
        int64_t d = from[axis - lead];
        stride = d == 0 ? 0 : stride / d;
        step = d == 1 ? 0 : stride;
      }
      std::vector<int64_t> grown;
      grown.reserve(positions.size() * static_cast<size_t>(to[axis]));
      for (int64_t p : positions) {
        for (int64_t i = 0; i < to[axis]; ++i) {
          grown.push_back(p + i * step);
        }
      }
      positions = std::move(grown);
    }
    return positions;
  }

  Product product_;
};

mx::array build(const Product& product, std::vector<mx::array> inputs) {
  const mx::array &x = inputs[0], &w = inputs[1];
  const bool dense = product.weight.format == Format::dense, affine = product.weight.format == Format::affine;
  if (x.ndim() < 1 || w.ndim() < 2 || !is_kernel_float(x.dtype())) {
    throw std::invalid_argument("matrix product: x must be a float array and w at least two-dimensional");
  }
  int64_t n = w.shape(-2);
  int64_t k = dense ? w.shape(-1) : static_cast<int64_t>(w.shape(-1)) * 32 / product.weight.bits;
  if (x.shape(-1) != (product.transpose ? k : n)) {
    throw std::invalid_argument("matrix product: x has " + std::to_string(x.shape(-1)) + " features, the weight " +
                                std::to_string(product.transpose ? k : n));
  }
  if (!dense && (k % product.weight.group != 0 || inputs[2].shape(-1) != k / product.weight.group)) {
    throw std::invalid_argument("matrix product: scales do not fit the weight, group size and bits");
  }
  if (product.weight.interleaved && (n % 16 != 0 || (dense && k % 64 != 0))) {
    throw std::invalid_argument("matrix product: an interleaved weight has 16 * i rows (and 64 * j columns when dense)");
  }
  mx::Shape shape;
  if (product.gathered) {
    mx::Shape batch(x.shape().begin(), x.shape().end() - 2);
    shape = mx::broadcast_shapes(batch, inputs.back().shape());
    shape.push_back(x.shape(-2));
  } else {
    shape = mx::Shape(x.shape().begin(), x.shape().end() - 1);
  }
  shape.push_back(static_cast<int>(product.transpose ? n : k));
  mx::Dtype type = dense ? mx::promote_types(x.dtype(), w.dtype())
                         : (affine ? mx::promote_types(x.dtype(), inputs[2].dtype()) : x.dtype());
  auto stream = cpu_stream();
  return mx::array(std::move(shape), type, std::make_shared<MatrixProduct>(stream, product), std::move(inputs));
}

// Sums away the axes along which `shape` was broadcast.
mx::array sum_to(mx::array a, const mx::Shape& shape) {
  auto stream = cpu_stream();
  while (a.ndim() > shape.size()) {
    a = mx::sum(a, 0, false, stream);
  }
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] != a.shape(static_cast<int>(i))) {
      a = mx::sum(a, static_cast<int>(i), true, stream);
    }
  }
  return a;
}

std::vector<mx::array> MatrixProduct::vjp(const std::vector<mx::array>& primals,
                                          const std::vector<mx::array>& cotangents, const std::vector<int>& argnums,
                                          const std::vector<mx::array>&) {
  std::vector<mx::array> gradients;
  const mx::array& dy = cotangents[0];
  auto s = stream();
  for (int arg : argnums) {
    if (arg == 0) {
      Product back = product_;
      back.transpose = !product_.transpose;
      back.fast = false;
      std::vector<mx::array> inputs = primals;
      inputs[0] = dy;
      mx::array dx = build(back, std::move(inputs));
      gradients.push_back(mx::astype(sum_to(dx, primals[0].shape()), primals[0].dtype(), s));
      continue;
    }
    const Weight& weight = product_.weight;
    const bool dense = arg == 1 && weight.format == Format::dense;
    if (product_.gathered || weight.interleaved || !(dense || (arg >= 2 && weight.format == Format::affine))) {
      throw std::invalid_argument("matrix product: no gradient with respect to packed codes or regrouped weights");
    }
    // dw = dy.T @ x, both with the rows of the batch as inputs
    mx::array y2 = mx::reshape(dy, {-1, dy.shape(-1)}, s);
    mx::array x2 = mx::reshape(primals[0], {-1, primals[0].shape(-1)}, s);
    mx::array left = product_.transpose ? y2 : x2, right = product_.transpose ? x2 : y2;
    mx::array dw = build(Product{}, {mx::transpose(left, s), mx::transpose(right, s)});
    if (arg >= 2) {  // w = codes * scale + bias for each group
      dw = mx::unflatten(dw, -1, {-1, weight.group}, s);
      if (arg == 2) {
        const mx::array one = mx::ones_like(primals[2], s);
        mx::array codes = mx::dequantize(primals[1], one, mx::zeros_like(one, s), weight.group, weight.bits, "affine",
                                         std::nullopt, std::nullopt, s);
        dw = mx::multiply(dw, mx::unflatten(codes, -1, {-1, weight.group}, s), s);
      }
      dw = mx::sum(dw, -1, false, s);
    }
    gradients.push_back(mx::astype(dw, primals[static_cast<size_t>(arg)].dtype(), s));
  }
  return gradients;
}

std::pair<std::vector<mx::array>, std::vector<int>> MatrixProduct::vmap(const std::vector<mx::array>& inputs,
                                                                        const std::vector<int>& axes) {
  for (size_t i = 1; i < axes.size(); ++i) {
    if (axes[i] != -1) {
      throw std::invalid_argument("matrix product: vmap over weights is not supported");
    }
  }
  if (product_.gathered) {
    throw std::invalid_argument("matrix product: vmap over gathered products is not supported");
  }
  std::vector<mx::array> moved = inputs;
  moved[0] = mx::moveaxis(inputs[0], axes[0], 0, stream());
  return {{build(product_, std::move(moved))}, {0}};
}

Weight quantized_weight(const std::string& mode, int bits, int group, bool interleaved) {
  static const std::pair<const char*, Format> formats[] = {
      {"affine", Format::affine}, {"mxfp4", Format::mxfp4}, {"mxfp8", Format::mxfp8}, {"nvfp4", Format::nvfp4}};
  for (const auto& [name, format] : formats) {
    if (mode == name) {
      return {format, bits, group, interleaved};
    }
  }
  throw std::invalid_argument("matrix product: unknown quantization mode " + mode);
}

std::vector<mx::array> quantized_inputs(const mx::array& x, const mx::array& w, const mx::array& scales,
                                        const std::optional<mx::array>& biases, Format format) {
  std::vector<mx::array> inputs = {x, w, scales};
  if (format == Format::affine) {
    if (!biases || biases->dtype() != scales.dtype() || !is_kernel_float(scales.dtype())) {
      throw std::invalid_argument("matrix product: affine weights need scales and biases of one float type");
    }
    inputs.push_back(*biases);
  }
  return inputs;
}

mx::array quantized_matmul(const mx::array& x, const mx::array& w, const mx::array& scales,
                           const std::optional<mx::array>& biases, int group_size, int bits, const std::string& mode,
                           bool transpose, bool interleaved) {
  Product product;
  product.weight = quantized_weight(mode, bits, group_size, interleaved);
  product.transpose = transpose;
  product.fast = fast_activations();
  return build(product, quantized_inputs(x, w, scales, biases, product.weight.format));
}

mx::array gather_quantized_matmul(const mx::array& x, const mx::array& w, const mx::array& scales,
                                  const std::optional<mx::array>& biases, const mx::array& indices, int group_size,
                                  int bits, const std::string& mode, bool transpose, bool interleaved) {
  Product product;
  product.weight = quantized_weight(mode, bits, group_size, interleaved);
  product.transpose = transpose;
  product.fast = fast_activations();
  product.gathered = true;
  auto inputs = quantized_inputs(x, w, scales, biases, product.weight.format);
  inputs.push_back(mx::astype(indices, mx::uint32, cpu_stream()));
  return build(product, std::move(inputs));
}

mx::array matmul(const mx::array& x, const mx::array& w, bool transpose, bool interleaved) {
  Product product;
  product.weight.interleaved = interleaved;
  product.transpose = transpose;
  product.fast = fast_activations();
  return build(product, {x, w});
}

mx::array gather_matmul(const mx::array& x, const mx::array& w, const mx::array& indices, bool transpose,
                        bool interleaved) {
  Product product;
  product.weight.interleaved = interleaved;
  product.transpose = transpose;
  product.fast = fast_activations();
  product.gathered = true;
  return build(product, {x, w, mx::astype(indices, mx::uint32, cpu_stream())});
}

class Interleave : public CpuPrimitive {
 public:
  Interleave(mx::Stream stream, bool undo) : CpuPrimitive(stream), undo_(undo) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    allocate(outputs[0]);
    if (outputs[0].size() == 0) {
      return;
    }
    submit([a = Operand::of(inputs[0]), y = outputs[0].data<char>(), undo = undo_] {
      std::vector<char> copy;
      const char* from = a.contiguous<char>(copy);
      int64_t columns = a.shape.back(), panels = static_cast<int64_t>(a.size()) / columns / 16;
      parallel_phases([&](Phases& run) {
        run.each(panels, 1, [&](int64_t begin, int64_t end) {
          linear_kernels().interleave(from, y, columns, static_cast<int>(a.item), undo, begin, end);
        });
      });
    });
  }

  const char* name() const override { return "MlxLmInterleave"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return undo_ == static_cast<const Interleave&>(other).undo_;
  }

 private:
  bool undo_;
};

// Words, scales and biases as they are; dense 16-bit elements in pairs, because a lane holds 32 bits.
mx::array interleave(const mx::array& a, bool undo, bool dense) {
  if (dense && a.itemsize() == 2) {
    auto s = cpu_stream();
    return mx::view(interleave(mx::view(a, mx::uint32, s), undo, false), a.dtype(), s);
  }
  if (a.ndim() < 2 || a.shape(-2) % 16 != 0 || a.itemsize() == 8) {
    throw std::invalid_argument("interleave: the number of rows must be a multiple of 16");
  }
  return mx::array(a.shape(), a.dtype(), std::make_shared<Interleave>(cpu_stream(), undo), {a});
}

}  // namespace

}  // namespace mlx_lm

MLX_LM_BIND(m) {
  using namespace mlx_lm;
  using namespace nb::literals;
  m.def("activations", [] { return std::string(fast_activations() ? "int8" : "exact"); });
  m.def("set_activations", [](const std::string& mode) { fast.store(mode == "int8"); });
  m.def("quantized_matmul", &quantized_matmul, "x"_a, "w"_a, "scales"_a, "biases"_a.none(), "group_size"_a, "bits"_a,
        "mode"_a, "transpose"_a = true, "interleaved"_a = false);
  m.def("gather_quantized_matmul", &gather_quantized_matmul, "x"_a, "w"_a, "scales"_a, "biases"_a.none(), "indices"_a,
        "group_size"_a, "bits"_a, "mode"_a, "transpose"_a = true, "interleaved"_a = false);
  m.def("matmul", &matmul, "x"_a, "w"_a, "transpose"_a = true, "interleaved"_a = false);
  m.def("gather_matmul", &gather_matmul, "x"_a, "w"_a, "indices"_a, "transpose"_a = true,
        "interleaved"_a = false);
  m.def("interleave", &interleave, "a"_a, "undo"_a = false, "dense"_a = false);
}
