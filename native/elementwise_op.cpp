// MLX primitives over rows of the last axis: norms, rotation, activations, argmax. One graph node each.
//
// All take part in gradients, vmap and compile but argmax, which gives None where its input is being traced: callers
// then use the plain expression.
#include "elementwise.h"

#include <cmath>
#include <memory>
#include <optional>

#include "bind.h"
#include "mlx/ops.h"
#include "pool.h"
#include "primitive.h"
#include "rows.h"

namespace nb = nanobind;

namespace mlx_lm {

namespace {

class Norm : public CpuPrimitive {
 public:
  Norm(mx::Stream stream, NormOptions options) : CpuPrimitive(stream), options_(options) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::array& out = outputs[0];
    allocate(out);
    if (out.size() == 0) {
      return;
    }
    const size_t bias_at = options_.weight ? 2 : 1;
    auto weight = maybe(inputs, options_.weight, 1), bias = maybe(inputs, options_.bias, bias_at);
    Float wt = options_.weight ? float_type(inputs[1].dtype()) : Float::f32;
    Float bt = options_.bias ? float_type(inputs[bias_at].dtype()) : Float::f32;
    submit([o = options_, x = Operand::of(inputs[0]), xt = float_type(inputs[0].dtype()), weight, bias, wt, bt,
            y = out.data<char>(), yt = float_type(out.dtype())] {
      std::vector<char> copy;
      RowSource rows(x, copy);
      std::vector<float> w = as_floats(weight, wt, o.offset), b = as_floats(bias, bt, 0.0f);
      const float *wp = w.empty() ? nullptr : w.data(), *bp = b.empty() ? nullptr : b.data();
      const int64_t n = rows.width(), bytes = n * float_bytes(yt);
      parallel(
          [&](Team& team) {
            Range part = team.share(rows.count());
            for (int64_t i = part.begin; i < part.end; ++i) {
              if (o.layer) {
                row_kernels().layer_norm(rows.row(i), xt, wp, bp, o.eps, n, y + i * bytes, yt);
              } else {
                row_kernels().rms_norm(rows.row(i), xt, wp, o.eps, n, y + i * bytes, yt);
              }
            }
          },
          threads_for(2.0 * static_cast<double>(rows.count() * n)));
    });
  }
  static mx::array make(mx::Stream stream, const NormOptions& options, std::vector<mx::array> inputs) {
    mx::Dtype type = inputs[0].dtype();
    for (const mx::array& a : inputs) {
      type = mx::promote_types(type, a.dtype());
    }
    mx::Shape shape = inputs[0].shape();
    return mx::array(std::move(shape), type, std::make_shared<Norm>(stream, options), std::move(inputs));
  }
  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>&) override {
    return norm_gradients(stream(), options_, primals, cotangents[0], argnums);
  }
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override {
    return looped_vmap(inputs, axes, stream(), [this](std::vector<mx::array> slice) {
      return std::vector<mx::array>{make(stream(), options_, std::move(slice))};
    });
  }
  const char* name() const override { return "MlxLmNorm"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return options_ == static_cast<const Norm&>(other).options_;
  }

 private:
  NormOptions options_;
};

mx::array norm(NormOptions options, const mx::array& x, const std::optional<mx::array>& weight,
               const std::optional<mx::array>& bias) {
  if (x.ndim() < 1 || !is_kernel_float(x.dtype())) {
    throw std::invalid_argument("norm: x must be a float array with at least one axis");
  }
  std::vector<mx::array> inputs = {x};
  for (const auto* a : {&weight, &bias}) {
    if (*a) {
      if ((*a)->ndim() != 1 || (*a)->shape(0) != x.shape(-1) || !is_kernel_float((*a)->dtype())) {
        throw std::invalid_argument("norm: weight and bias must be float vectors as long as x's last axis");
      }
      inputs.push_back(**a);
    }
  }
  return Norm::make(cpu_stream(), options, std::move(inputs));
}

// ---------------------------------------------------------------- rotation

struct RopeOptions {
  int dims;
  bool traditional;
  float base;   // 0: the second input holds the wavelength divisors
  float scale;  // on positions
  bool operator==(const RopeOptions& o) const {
    return dims == o.dims && traditional == o.traditional && base == o.base && scale == o.scale;
  }
};

class Rotate : public CpuPrimitive {
 public:
  Rotate(mx::Stream stream, RopeOptions options) : CpuPrimitive(stream), options_(options) {}

  // inputs: x (B, H, L, D), offsets (1 or B) int32, divisors (dims/2) float32 when base is 0
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::array& out = outputs[0];
    allocate(out);
    if (out.size() == 0) {
      return;
    }
    auto divisors = maybe(inputs, options_.base == 0.0f, 2);
    submit([o = options_, x = Operand::of(inputs[0]), type = float_type(inputs[0].dtype()),
            offsets = Operand::of(inputs[1]), divisors, y = out.data<char>()] {
      run(o, x, type, offsets, divisors, y);
    });
  }

  static void run(const RopeOptions& o, const Operand& x, Float type, const Operand& offsets,
                  const std::optional<Operand>& divisors, char* y) {
    std::vector<char> copy, offset_copy;
    RowSource rows(x, copy);
    const int* first = offsets.contiguous<int>(offset_copy);
    const int64_t heads = x.shape[1], length = x.shape[2], n = x.shape[3], half = o.dims / 2;
    std::vector<float> inverse = inverse_frequencies(o, divisors);
    const int64_t tables = offsets.size() == 1 ? 1 : x.shape[0];
    std::vector<float> angles(static_cast<size_t>(tables * length * half * 2));
    parallel(
        [&](Team& team) {
          Range part = team.share(tables * length);
          for (int64_t i = part.begin; i < part.end; ++i) {
            float position = static_cast<float>(first[i / length] + static_cast<int>(i % length)) * o.scale;
            float* to = angles.data() + i * half * 2;
            for (int64_t d = 0; d < half; ++d) {
              to[d] = std::cos(position * inverse[static_cast<size_t>(d)]);
              to[half + d] = std::sin(position * inverse[static_cast<size_t>(d)]);
            }
          }
          team.barrier();
          part = team.share(rows.count());
          for (int64_t i = part.begin; i < part.end; ++i) {
            int64_t table = (tables == 1 ? 0 : i / length / heads) * length + i % length;
            const float* at = angles.data() + table * half * 2;
            row_kernels().rotate(rows.row(i), type, at, at + half, 1.0f, o.dims, o.traditional, n,
                                 y + i * n * float_bytes(type), type);
          }
        },
        threads_for(4.0 * static_cast<double>(rows.count() * n)));
  }

  // As MLX's own composed rope computes them, so that angles of far positions agree.
  static std::vector<float> inverse_frequencies(const RopeOptions& o, const std::optional<Operand>& divisors) {
    std::vector<float> inverse(static_cast<size_t>(o.dims / 2));
    if (divisors) {
      std::vector<float> d = as_floats(divisors, Float::f32, 0.0f);
      for (size_t i = 0; i < inverse.size(); ++i) {
        inverse[i] = 1.0f / d[i];
      }
      return inverse;
    }
    float step = std::log(o.base) / static_cast<float>(inverse.size());
    for (size_t i = 0; i < inverse.size(); ++i) {
      inverse[i] = std::exp(-static_cast<float>(i) * step);
    }
    return inverse;
  }

  static mx::array make(mx::Stream stream, const RopeOptions& options, std::vector<mx::array> inputs) {
    mx::Shape shape = inputs[0].shape();
    mx::Dtype type = inputs[0].dtype();
    return mx::array(std::move(shape), type, std::make_shared<Rotate>(stream, options), std::move(inputs));
  }
  // A rotation's transpose turns the other way.
  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>&) override {
    if (argnums != std::vector<int>{0}) {
      throw std::invalid_argument("rope: no gradient with respect to offsets or wavelengths");
    }
    RopeOptions back = options_;
    back.scale = -back.scale;
    std::vector<mx::array> inputs = primals;
    inputs[0] = cotangents[0];
    return {make(stream(), back, std::move(inputs))};
  }
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override {
    return looped_vmap(inputs, axes, stream(), [this](std::vector<mx::array> slice) {
      return std::vector<mx::array>{make(stream(), options_, std::move(slice))};
    });
  }
  const char* name() const override { return "MlxLmRope"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return options_ == static_cast<const Rotate&>(other).options_;
  }

 private:
  RopeOptions options_;
};

mx::array rope(const mx::array& x, int dims, bool traditional, float base, float scale,
               const std::variant<int, mx::array>& offset, const std::optional<mx::array>& freqs) {
  if (x.ndim() != 4 || !is_kernel_float(x.dtype()) || dims < 2 || dims % 2 != 0 || dims > x.shape(3)) {
    throw std::invalid_argument("rope: x must be a float array (B, H, L, D) with D >= dims, dims even");
  }
  auto stream = cpu_stream();
  const mx::array* given = std::get_if<mx::array>(&offset);
  mx::array offsets = given != nullptr ? mx::astype(*given, mx::int32, stream)
                                       : mx::array(std::get<int>(offset), mx::int32);
  if (offsets.size() != 1 && static_cast<int64_t>(offsets.size()) != x.shape(0)) {
    throw std::invalid_argument("rope: one offset, or one for each row");
  }
  if (freqs && (freqs->ndim() != 1 || freqs->shape(0) != dims / 2)) {
    throw std::invalid_argument("rope: freqs must have dims / 2 entries");
  }
  std::vector<mx::array> inputs = {x, offsets};
  if (freqs) {
    inputs.push_back(mx::astype(*freqs, mx::float32, stream));
  }
  RopeOptions options{dims, traditional, freqs ? 0.0f : base, scale};
  return Rotate::make(stream, options, std::move(inputs));
}

// ---------------------------------------------------------------- activations

constexpr std::pair<const char*, Act> act_names[] = {
    {"none", Act::none},         {"silu", Act::silu},     {"gelu", Act::gelu},
    {"gelu_tanh", Act::gelu_tanh}, {"quick_gelu", Act::quick_gelu}, {"relu", Act::relu},
    {"relu2", Act::relu2},       {"sigmoid", Act::sigmoid}, {"tanh", Act::tanh}};

class Activate : public CpuPrimitive {
 public:
  Activate(mx::Stream stream, Act act) : CpuPrimitive(stream), act_(act) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::array& out = outputs[0];
    allocate(out);
    if (out.size() == 0) {
      return;
    }
    auto up = maybe(inputs, inputs.size() == 2, 1);
    Float ut = up ? float_type(inputs[1].dtype()) : Float::f32;
    submit([act = act_, gate = Operand::of(inputs[0]), gt = float_type(inputs[0].dtype()), up, ut,
            y = out.data<char>(), yt = float_type(out.dtype())] {
      std::vector<char> gate_copy, up_copy;
      RowSource gates(gate, gate_copy);
      std::optional<RowSource> ups;
      if (up) {
        ups.emplace(*up, up_copy);
      }
      const int64_t n = gates.width(), pieces = (n + 255) / 256;
      parallel(
          [&](Team& team) {
            Range part = team.share(gates.count() * pieces);
            for (int64_t i = part.begin; i < part.end; ++i) {
              int64_t row = i / pieces, at = i % pieces * 256, count = n - at < 256 ? n - at : 256;
              const char* u = ups ? ups->row(row) + at * float_bytes(ut) : nullptr;
              row_kernels().activate(act, gates.row(row) + at * float_bytes(gt), gt, u, ut, count,
                                     y + (row * n + at) * float_bytes(yt), yt);
            }
          },
          threads_for(8.0 * static_cast<double>(gates.count() * n)));
    });
  }
  static mx::array make(mx::Stream stream, Act act, std::vector<mx::array> inputs) {
    mx::Shape shape = inputs[0].shape();
    mx::Dtype type = mx::promote_types(inputs[0].dtype(), inputs.back().dtype());
    return mx::array(std::move(shape), type, std::make_shared<Activate>(stream, act), std::move(inputs));
  }
  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>&) override {
    return activation_gradients(stream(), act_, primals, cotangents[0], argnums);
  }
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override {
    return looped_vmap(inputs, axes, stream(), [this](std::vector<mx::array> slice) {
      return std::vector<mx::array>{make(stream(), act_, std::move(slice))};
    });
  }
  const char* name() const override { return "MlxLmActivation"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return act_ == static_cast<const Activate&>(other).act_;
  }

 private:
  Act act_;
};

mx::array activation(const mx::array& gate, const std::optional<mx::array>& up, const std::string& name) {
  if (gate.ndim() < 1 || !is_kernel_float(gate.dtype()) ||
      (up && (up->shape() != gate.shape() || !is_kernel_float(up->dtype())))) {
    throw std::invalid_argument("activation: float arrays of one shape are needed");
  }
  std::vector<mx::array> inputs = {gate};
  if (up) {
    inputs.push_back(*up);
  }
  return Activate::make(cpu_stream(), act_by_name(name), std::move(inputs));
}

// ---------------------------------------------------------------- argmax

class ArgMax : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::array& out = outputs[0];
    allocate(out);
    if (out.size() == 0) {
      return;
    }
    submit([x = Operand::of(inputs[0]), type = float_type(inputs[0].dtype()), y = out.data<uint32_t>()] {
      std::vector<char> copy;
      RowSource rows(x, copy);
      parallel(
          [&](Team& team) {
            Range part = team.share(rows.count());
            for (int64_t i = part.begin; i < part.end; ++i) {
              y[i] = static_cast<uint32_t>(row_kernels().argmax(rows.row(i), type, rows.width()));
            }
          },
          rows.count() == 1 ? 1 : threads_for(static_cast<double>(rows.count() * rows.width())));
    });
  }
  const char* name() const override { return "MlxLmArgMax"; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
};

std::optional<mx::array> argmax(const mx::array& x) {
  if (x.ndim() < 1 || x.shape(-1) == 0 || !is_kernel_float(x.dtype())) {
    throw std::invalid_argument("argmax: x must be a float array whose last axis is not empty");
  }
  if (x.is_tracer()) {
    return std::nullopt;
  }
  mx::Shape shape(x.shape().begin(), x.shape().end() - 1);
  return mx::array(std::move(shape), mx::uint32, std::make_shared<ArgMax>(cpu_stream()), {x});
}

}  // namespace

Act act_by_name(const std::string& name) {
  for (const auto& [known, act] : act_names) {
    if (name == known) {
      return act;
    }
  }
  throw std::invalid_argument("unknown activation " + name);
}

}  // namespace mlx_lm

MLX_LM_BIND(m) {
  using namespace mlx_lm;
  using namespace nb::literals;
  m.def("rms_norm", [](const mx::array& x, const std::optional<mx::array>& weight, float eps, float offset) {
    return norm({false, weight.has_value(), false, eps, weight ? offset : 0.0f}, x, weight, std::nullopt);
  }, "x"_a, "weight"_a.none(), "eps"_a, "offset"_a);
  m.def("layer_norm", [](const mx::array& x, const std::optional<mx::array>& weight,
                         const std::optional<mx::array>& bias, float eps) {
    return norm({true, weight.has_value(), bias.has_value(), eps, 0.0f}, x, weight, bias);
  }, "x"_a, "weight"_a.none(), "bias"_a.none(), "eps"_a);
  m.def("rope", &rope, "x"_a, "dims"_a, "traditional"_a, "base"_a, "scale"_a, "offset"_a, "freqs"_a.none());
  m.def("activation", &activation, "gate"_a, "up"_a.none(), "name"_a);
  m.def("argmax", &argmax, "x"_a);
}
