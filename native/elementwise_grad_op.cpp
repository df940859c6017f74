// Primitives for the gradients of norms and activations.
#include "elementwise_grad.h"

#include <memory>

#include "pool.h"
#include "rows.h"

namespace mlx_lm {

namespace {

std::vector<mx::array> chosen_of(const std::vector<mx::array>& all, const std::vector<int>& argnums) {
  std::vector<mx::array> chosen;
  for (int i : argnums) {
    chosen.push_back(all[static_cast<size_t>(i)]);
  }
  return chosen;
}

// Outputs like the inputs but the last, which is dy.
template <class Primitive, class... Options>
std::vector<mx::array> gradients_like(mx::Stream stream, std::vector<mx::array> inputs, const Options&... options) {
  std::vector<mx::Shape> shapes;
  std::vector<mx::Dtype> types;
  for (size_t i = 0; i + 1 < inputs.size(); ++i) {
    shapes.push_back(inputs[i].shape());
    types.push_back(inputs[i].dtype());
  }
  auto primitive = std::make_shared<Primitive>(stream, options...);
  return mx::array::make_arrays(std::move(shapes), types, std::move(primitive), std::move(inputs));
}

class NormBackward : public CpuPrimitive {
 public:
  // `whole`: gradients of weight and bias are wanted; they are zero otherwise.
  NormBackward(mx::Stream stream, NormOptions options, bool whole)
      : CpuPrimitive(stream), options_(options), whole_(whole) {}

  // inputs: x[, weight][, bias], dy
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    std::vector<std::pair<char*, Float>> to;
    for (mx::array& out : outputs) {
      allocate(out);
      std::memset(out.data<char>(), 0, out.nbytes());
      to.emplace_back(out.data<char>(), float_type(out.dtype()));
    }
    if (inputs[0].size() == 0) {
      return;
    }
    NormGradient o{options_.layer, nullptr, options_.eps, inputs[0].shape(-1), float_type(inputs[0].dtype()),
                   float_type(inputs.back().dtype())};
    auto weight = maybe(inputs, options_.weight, 1);
    submit([o, options = options_, whole = whole_, to, weight,
            wt = options_.weight ? float_type(inputs[1].dtype()) : Float::f32, x = Operand::of(inputs[0]),
            dy = Operand::of(inputs.back())] { run(o, options, whole, to, weight, wt, x, dy); });
  }

  static void run(NormGradient o, const NormOptions& options, bool whole,
                  const std::vector<std::pair<char*, Float>>& to, const std::optional<Operand>& weight, Float wt,
                  const Operand& x, const Operand& dy) {
    std::vector<char> x_copy, dy_copy;
    RowSource rows(x, x_copy), slopes(dy, dy_copy);
    std::vector<float> w = as_floats(weight, wt, options.offset);
    o.weight = w.empty() ? nullptr : w.data();
    // every thread adds up its own rows: the same sums for the same number of threads
    const auto n = static_cast<size_t>(o.n);
    const bool weights = whole && options.weight, biases = whole && options.bias;
    std::vector<float> sums(whole ? 2 * n * static_cast<size_t>(num_threads()) : 0);
    int size = 1;
    parallel(
        [&](Team& team) {
          if (team.rank() == 0) {
            size = team.size();
          }
          float* own = sums.data() + 2 * n * static_cast<size_t>(team.rank());
          Range part = team.share(rows.count());
          for (int64_t i = part.begin; i < part.end; ++i) {
            gradient_kernels().norm(o, rows.row(i), slopes.row(i), to[0].first + i * o.n * float_bytes(o.x_type),
                                    weights ? own : nullptr, biases ? own + n : nullptr);
          }
        },
        threads_for(4.0 * static_cast<double>(rows.count() * o.n)));
    for (int part = 0; whole && part < 2; ++part) {
      if (part == 0 ? !weights : !biases) {
        continue;
      }
      float* total = sums.data() + static_cast<size_t>(part) * n;
      for (int t = 1; t < size; ++t) {
        row_kernels().add(total, total + 2 * n * static_cast<size_t>(t), nullptr, 1.0f, o.n);
      }
      const auto& [data, type] = to[part == 0 ? 1 : to.size() - 1];
      row_kernels().convert(total, Float::f32, o.n, data, type);
    }
  }

  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override {
    return looped_vmap(inputs, axes, stream(), [this](std::vector<mx::array> slice) {
      return gradients_like<NormBackward>(stream(), std::move(slice), options_, whole_);
    });
  }
  const char* name() const override { return "MlxLmNormGradient"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const NormBackward&>(other);
    return options_ == o.options_ && whole_ == o.whole_;
  }

 private:
  NormOptions options_;
  bool whole_;
};

class ActivationBackward : public CpuPrimitive {
 public:
  ActivationBackward(mx::Stream stream, Act act) : CpuPrimitive(stream), act_(act) {}

  // inputs: gate[, up], dy
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    std::vector<char*> to;
    for (mx::array& out : outputs) {
      allocate(out);
      to.push_back(out.data<char>());
    }
    if (inputs[0].size() == 0) {
      return;
    }
    const bool gated = inputs.size() == 3;
    ActivationGradient o{act_, float_type(inputs[0].dtype()), gated ? float_type(inputs[1].dtype()) : Float::f32,
                         float_type(inputs.back().dtype())};
    submit([o, to, gate = Operand::of(inputs[0]), up = maybe(inputs, gated, 1), dy = Operand::of(inputs.back())] {
      std::vector<char> gate_copy, up_copy, dy_copy;
      RowSource gates(gate, gate_copy), slopes(dy, dy_copy);
      std::optional<RowSource> ups;
      if (up) {
        ups.emplace(*up, up_copy);
      }
      const int64_t n = gates.width();
      parallel(
          [&](Team& team) {
            Range part = team.share(gates.count());
            for (int64_t i = part.begin; i < part.end; ++i) {
              gradient_kernels().activate(o, gates.row(i), ups ? ups->row(i) : nullptr, slopes.row(i),
                                          to[0] + i * n * float_bytes(o.gate_type),
                                          ups ? to[1] + i * n * float_bytes(o.up_type) : nullptr, n);
            }
          },
          threads_for(16.0 * static_cast<double>(gates.count() * n)));
    });
  }

  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override {
    return looped_vmap(inputs, axes, stream(), [this](std::vector<mx::array> slice) {
      return gradients_like<ActivationBackward>(stream(), std::move(slice), act_);
    });
  }
  const char* name() const override { return "MlxLmActivationGradient"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return act_ == static_cast<const ActivationBackward&>(other).act_;
  }

 private:
  Act act_;
};

}  // namespace

std::vector<mx::array> norm_gradients(mx::Stream stream, const NormOptions& options,
                                      const std::vector<mx::array>& inputs, const mx::array& dy,
                                      const std::vector<int>& argnums) {
  bool whole = false;
  for (int i : argnums) {
    whole = whole || i > 0;
  }
  std::vector<mx::array> all = inputs;
  all.push_back(dy);
  return chosen_of(gradients_like<NormBackward>(stream, std::move(all), options, whole), argnums);
}

std::vector<mx::array> activation_gradients(mx::Stream stream, Act act, const std::vector<mx::array>& inputs,
                                            const mx::array& dy, const std::vector<int>& argnums) {
  std::vector<mx::array> all = inputs;
  all.push_back(dy);
  return chosen_of(gradients_like<ActivationBackward>(stream, std::move(all), act), argnums);
}

}  // namespace mlx_lm
