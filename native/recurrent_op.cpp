// MLX primitives of recurrent layers: one node with two outputs (y, state after the last step) each.
//
// Every function gives None where an input is being traced (gradients, vmap, compile): callers then use the plain
// expression.
#include "recurrent.h"

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <optional>

#include "bind.h"
#include "mlx/ops.h"
#include "primitive.h"
#include "stages.h"
#include "workspace.h"

namespace nb = nanobind;

namespace mlx_lm {

namespace {

// A strided (B, L, ...) operand: copied only where the last axis is read as a vector and is not contiguous.
class Timed {
 public:
  Timed(const Operand& operand, bool vector) : operand_(operand), strides_(operand.strides) {
    data_ = operand_.data;
    if (vector && operand_.shape.back() > 1 && strides_.back() != 1) {
      data_ = operand_.contiguous<char>(copy_);
      int64_t n = 1;
      for (size_t i = strides_.size(); i-- > 0;) {
        strides_[i] = n;
        n *= operand_.shape[i];
      }
    }
  }
  // From (batch, 0, head, element); `head` and `element` count along axes 2 and 3 where those exist.
  Steps at(Float type, int64_t batch, int64_t head = 0, int64_t element = 0) const {
    int64_t offset = batch * strides_[0];
    offset += strides_.size() > 2 ? head * strides_[2] : 0;
    offset += strides_.size() > 3 ? element * strides_[3] : 0;
    return {data_ + offset * bytes(), type, strides_[1] * bytes()};
  }

 private:
  int64_t bytes() const { return static_cast<int64_t>(operand_.item); }

  Operand operand_;
  mx::Strides strides_;
  std::vector<char> copy_;
  const char* data_;
};

struct Input {
  Operand operand;
  Float type;
};

std::vector<Input> inputs_of(const std::vector<mx::array>& arrays) {
  std::vector<Input> list;
  for (const mx::array& a : arrays) {
    list.push_back({Operand::of(a), float_type(a.dtype())});
  }
  return list;
}

struct Output {
  char* data;
  Float type;
};

Output output_of(mx::array& a) {
  allocate(a);
  return {a.data<char>(), float_type(a.dtype())};
}

// Runs body(unit) for 0..units on the pool.
template <class Body>
void each_unit(int64_t units, double work, Body&& body) {
  parallel_stages(undisturbed(), [&](Stages& run) {
    run.each(units, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        body(i);
      }
    });
  }, threads_for(work));
}

// Places one block of `state_rows` rows of head `index` (batch * heads + head) in the common part.
StateBlock block_of(int64_t length, int64_t rows, int64_t width, int64_t heads, int64_t index, int64_t first,
                    const char* state, Output y, Output next) {
  StateBlock s{};
  s.length = length;
  s.rows = std::min(state_rows, rows - first);
  s.width = width;
  const int64_t at = (index * rows + first) * width * float_bytes(next.type);
  s.state = state == nullptr ? nullptr : state + at;
  s.new_state = next.data + at;
  s.state_type = next.type;
  s.y_type = y.type;
  s.y_step = heads * rows * float_bytes(y.type);
  s.y = y.data + (index / heads * length * heads + index % heads) * rows * float_bytes(y.type) +
      first * float_bytes(y.type);
  s.scratch = reinterpret_cast<float*>(workspace(static_cast<size_t>(state_scratch(width)) * sizeof(float)));
  return s;
}

bool any_traced(const std::vector<mx::array>& inputs) {
  return std::any_of(inputs.begin(), inputs.end(), [](const mx::array& a) { return a.is_tracer(); });
}

void need(bool condition, const char* message) {
  if (!condition) {
    throw std::invalid_argument(message);
  }
}

void need_floats(const std::vector<mx::array>& inputs, const char* message) {
  for (const mx::array& a : inputs) {
    need(is_kernel_float(a.dtype()) && a.size() > 0, message);
  }
}

using Pair = std::pair<mx::array, mx::array>;

Pair pair_of(mx::Shape y, mx::Dtype y_type, mx::Shape state, mx::Dtype state_type,
             std::shared_ptr<mx::Primitive> primitive, std::vector<mx::array> inputs) {
  auto made = mx::array::make_arrays({std::move(y), std::move(state)}, {y_type, state_type}, std::move(primitive),
                                     std::move(inputs));
  return {made[0], made[1]};
}

// ---------------------------------------------------------------- gated delta rule

class GatedDelta : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  // inputs: q, k (B, L, Hk, Dk), v (B, L, Hv, Dv), decay (B, L, Hv[, Dk]), beta (B, L, Hv)[, state (B, Hv, Dv, Dk)]
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    Output y = output_of(outputs[0]), next = output_of(outputs[1]);
    submit([in = inputs_of(inputs), y, next] { run(in, y, next); });
  }

  static void run(const std::vector<Input>& in, Output y, Output next) {
    const mx::Shape &ks = in[1].operand.shape, &vs = in[2].operand.shape;
    const int64_t batch = ks[0], length = ks[1], key_heads = ks[2], width = ks[3], heads = vs[2], rows = vs[3];
    const bool per_channel = in[3].operand.shape.size() == 4;
    Timed q(in[0].operand, true), k(in[1].operand, true), v(in[2].operand, true), decay(in[3].operand, per_channel),
        beta(in[4].operand, false);
    std::vector<char> copy;
    const char* state = in.size() > 5 ? in[5].operand.contiguous<char>(copy) : nullptr;
    const int64_t blocks = (rows + state_rows - 1) / state_rows;
    const double work = 4.0 * static_cast<double>(batch * heads * rows * width * length);
    each_unit(batch * heads * blocks, work, [&](int64_t i) {
      const int64_t index = i / blocks, b = index / heads, h = index % heads, first = i % blocks * state_rows;
      const int64_t key = h / (heads / key_heads);
      DeltaBlock block{};
      block.base = block_of(length, rows, width, heads, index, first, state, y, next);
      block.q = q.at(in[0].type, b, key);
      block.k = k.at(in[1].type, b, key);
      block.v = v.at(in[2].type, b, h, first);
      block.decay = decay.at(in[3].type, b, h);
      block.beta = beta.at(in[4].type, b, h);
      block.per_channel = per_channel;
      recurrent_kernels().gated_delta(block);
    });
  }
  const char* name() const override { return "MlxLmGatedDelta"; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
};

std::optional<Pair> gated_delta(const mx::array& q, const mx::array& k, const mx::array& v, const mx::array& decay,
                                const mx::array& beta, const std::optional<mx::array>& state) {
  std::vector<mx::array> inputs = {q, k, v, decay, beta};
  if (state) {
    inputs.push_back(*state);
  }
  need_floats(inputs, "gated_delta: non-empty float arrays are needed");
  need(k.ndim() == 4 && v.ndim() == 4 && q.shape() == k.shape() && v.shape(0) == k.shape(0) &&
           v.shape(1) == k.shape(1) && v.shape(2) % k.shape(2) == 0,
       "gated_delta: q, k (B, L, Hk, Dk) and v (B, L, Hv, Dv) with Hv a multiple of Hk are needed");
  const mx::Shape steps = {v.shape(0), v.shape(1), v.shape(2)};
  const mx::Shape channels = {v.shape(0), v.shape(1), v.shape(2), k.shape(3)};
  const mx::Shape kept = {v.shape(0), v.shape(2), v.shape(3), k.shape(3)};
  need(beta.shape() == steps && (decay.shape() == steps || decay.shape() == channels) &&
           (!state || state->shape() == kept),
       "gated_delta: the shapes of log_decay, beta or state do not fit k and v");
  if (any_traced(inputs)) {
    return std::nullopt;
  }
  mx::Dtype type = state ? state->dtype() : mx::float32;
  return pair_of(v.shape(), v.dtype(), kept, type, std::make_shared<GatedDelta>(cpu_stream()), std::move(inputs));
}

// ---------------------------------------------------------------- selective scans

struct ScanOptions {
  bool diagonal;
  bool skip;  // has d
  bool operator==(const ScanOptions& o) const { return diagonal == o.diagonal && skip == o.skip; }
};

class Scan : public CpuPrimitive {
 public:
  Scan(mx::Stream stream, ScanOptions options) : CpuPrimitive(stream), options_(options) {}

  // inputs: x (B, L, H, P), dt (B, L, H), a (H,), b, c (B, L, G, N)[, d (H,)][, state (B, H, P, N)]; diagonal:
  // x, dt (B, L, D), a (D, N), b, c (B, L, N)[, d (D,)][, state (B, D, N)]. a and d are float32.
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    Output y = output_of(outputs[0]), next = output_of(outputs[1]);
    submit([o = options_, in = inputs_of(inputs), y, next] { run(o, in, y, next); });
  }

  static void run(ScanOptions o, const std::vector<Input>& in, Output y, Output next) {
    const mx::Shape &xs = in[0].operand.shape, &bs = in[3].operand.shape;
    const int64_t batch = xs[0], length = xs[1], heads = o.diagonal ? 1 : xs[2], rows = xs.back();
    const int64_t groups = o.diagonal ? 1 : bs[2], width = bs.back();
    Timed x(in[0].operand, true), dt(in[1].operand, o.diagonal), b(in[3].operand, true), c(in[4].operand, true);
    std::vector<char> a_copy, d_copy, state_copy;
    const float* a = in[2].operand.contiguous<float>(a_copy);
    const float* d = o.skip ? in[5].operand.contiguous<float>(d_copy) : nullptr;
    const size_t state_at = o.skip ? 6 : 5;
    const char* state = in.size() > state_at ? in[state_at].operand.contiguous<char>(state_copy) : nullptr;
    const int64_t blocks = (rows + state_rows - 1) / state_rows;
    const double work = (o.diagonal ? 20.0 : 3.0) * static_cast<double>(batch * heads * rows * width * length);
    each_unit(batch * heads * blocks, work, [&](int64_t i) {
      const int64_t index = i / blocks, n = index / heads, h = index % heads, first = i % blocks * state_rows;
      const int64_t group = h / (heads / groups);
      ScanBlock block{};
      block.base = block_of(length, rows, width, heads, index, first, state, y, next);
      // Axis 2 is the head, or, without heads, the channel.
      block.x = o.diagonal ? x.at(in[0].type, n, first) : x.at(in[0].type, n, h, first);
      block.dt = dt.at(in[1].type, n, o.diagonal ? first : h);
      block.b = b.at(in[3].type, n, group);
      block.c = c.at(in[4].type, n, group);
      block.a = a + (o.diagonal ? first * width : h);
      block.d = d == nullptr ? nullptr : d + (o.diagonal ? first : h);
      block.diagonal = o.diagonal;
      recurrent_kernels().scan(block);
    });
  }
  const char* name() const override { return "MlxLmScan"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return options_ == static_cast<const Scan&>(other).options_;
  }

 private:
  ScanOptions options_;
};

std::optional<Pair> scan(bool diagonal, const mx::array& x, const mx::array& dt, const mx::array& a,
                         const mx::array& b, const mx::array& c, const std::optional<mx::array>& d,
                         const std::optional<mx::array>& state) {
  auto stream = cpu_stream();
  std::vector<mx::array> inputs = {x, dt, mx::astype(a, mx::float32, stream), b, c};
  if (d) {
    inputs.push_back(mx::astype(*d, mx::float32, stream));
  }
  if (state) {
    inputs.push_back(*state);
  }
  need_floats(inputs, "scan: non-empty float arrays are needed");
  mx::Shape kept;
  if (diagonal) {
    need(x.ndim() == 3 && b.ndim() == 3, "diagonal_scan: x (B, L, D) and b (B, L, N) are needed");
    const mx::Shape decays = {x.shape(2), b.shape(2)}, channels = {x.shape(2)};
    kept = {x.shape(0), x.shape(2), b.shape(2)};
    need(dt.shape() == x.shape() && a.shape() == decays && (!d || d->shape() == channels),
         "diagonal_scan: the shapes of dt, a or d do not fit x");
  } else {
    need(x.ndim() == 4 && b.ndim() == 4 && x.shape(2) % b.shape(2) == 0,
         "selective_scan: x (B, L, H, P) and b (B, L, G, N) with H a multiple of G are needed");
    const mx::Shape steps = {x.shape(0), x.shape(1), x.shape(2)}, heads = {x.shape(2)};
    kept = {x.shape(0), x.shape(2), x.shape(3), b.shape(3)};
    need(dt.shape() == steps && a.shape() == heads && (!d || d->shape() == heads),
         "selective_scan: the shapes of dt, a or d do not fit x");
  }
  need(b.shape() == c.shape() && b.shape(0) == x.shape(0) && b.shape(1) == x.shape(1) &&
           (!state || state->shape() == kept),
       "scan: the shapes of b, c or state do not fit x");
  if (any_traced(inputs)) {
    return std::nullopt;
  }
  mx::Dtype type = state ? state->dtype() : mx::float32;
  return pair_of(x.shape(), x.dtype(), kept, type,
                 std::make_shared<Scan>(stream, ScanOptions{diagonal, d.has_value()}), std::move(inputs));
}

// ---------------------------------------------------------------- causal convolution

struct ConvOptions {
  bool bias;
  bool state;
  bool operator==(const ConvOptions& o) const { return bias == o.bias && state == o.state; }
};

class CausalConv : public CpuPrimitive {
 public:
  CausalConv(mx::Stream stream, ConvOptions options) : CpuPrimitive(stream), options_(options) {}

  // inputs: x (B, L, C), weight (C, K, 1)[, bias (C,)][, state (B, K-1, C) in x's type]
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    Output y = output_of(outputs[0]), next = output_of(outputs[1]);
    submit([o = options_, in = inputs_of(inputs), y, next] { run(o, in, y, next); });
  }

  static void run(ConvOptions o, const std::vector<Input>& in, Output y, Output next) {
    constexpr int64_t span = 64;  // steps of one block
    const mx::Shape& xs = in[0].operand.shape;
    const int64_t batch = xs[0], length = xs[1], channels = xs[2], kernel = in[1].operand.shape[1];
    const int64_t past = kernel - 1, item = float_bytes(in[0].type);
    std::vector<char> weight_copy, bias_copy, zeros;
    const char* weight = in[1].operand.contiguous<char>(weight_copy);
    const char* bias = o.bias ? in[2].operand.contiguous<char>(bias_copy) : nullptr;
    Timed x(in[0].operand, true);
    const Input& last = in.back();
    Timed state(o.state ? last.operand : in[0].operand, o.state);
    if (!o.state) {
      zeros.resize(static_cast<size_t>(channels * item));
    }
    auto before = [&](int64_t b) {
      return o.state ? state.at(in[0].type, b) : Steps{zeros.data(), in[0].type, 0};
    };
    const int64_t pieces = (channels + conv_channels - 1) / conv_channels, spans = (length + span - 1) / span;
    const double work = static_cast<double>(batch * length * channels * kernel);
    each_unit(batch * spans * pieces, work, [&](int64_t i) {
      const int64_t b = i / pieces / spans, first = i % pieces * conv_channels;
      ConvBlock block{};
      block.begin = i / pieces % spans * span;
      block.end = std::min(block.begin + span, length);
      block.channels = std::min(conv_channels, channels - first);
      block.kernel = kernel;
      block.x = x.at(in[0].type, b);
      block.state = before(b);
      block.x.data += first * item;
      block.state.data += first * item;
      block.weight = weight + first * kernel * float_bytes(in[1].type);
      block.weight_type = in[1].type;
      block.bias = bias == nullptr ? nullptr : bias + first * float_bytes(in[2].type);
      block.bias_type = bias == nullptr ? Float::f32 : in[2].type;
      block.y_type = y.type;
      block.y_step = channels * float_bytes(y.type);
      block.y = y.data + (b * length + block.begin) * block.y_step + first * float_bytes(y.type);
      block.scratch = reinterpret_cast<float*>(
          workspace(static_cast<size_t>(2 * conv_channels * kernel) * sizeof(float)));
      recurrent_kernels().causal_conv(block);
    });
    for (int64_t b = 0; b < batch; ++b) {
      const Steps now = x.at(in[0].type, b), old = before(b);
      for (int64_t k = 0; k < past; ++k) {
        const int64_t at = length + k - past;
        const char* from = at < 0 ? old.data + (at + past) * old.step : now.data + at * now.step;
        std::memcpy(next.data + (b * past + k) * channels * item, from, static_cast<size_t>(channels * item));
      }
    }
  }
  const char* name() const override { return "MlxLmCausalConv"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return options_ == static_cast<const CausalConv&>(other).options_;
  }

 private:
  ConvOptions options_;
};

std::optional<Pair> causal_conv(const mx::array& x, const mx::array& weight, const std::optional<mx::array>& bias,
                                const std::optional<mx::array>& state) {
  std::vector<mx::array> inputs = {x, weight};
  mx::Dtype type = mx::promote_types(x.dtype(), weight.dtype());
  if (bias) {
    inputs.push_back(*bias);
    type = mx::promote_types(type, bias->dtype());
  }
  need_floats(inputs, "causal_conv: non-empty float arrays are needed");
  need(x.ndim() == 3 && weight.ndim() == 3 && weight.shape(0) == x.shape(2) && weight.shape(2) == 1,
       "causal_conv: x (B, L, C) and weight (C, K, 1) are needed");
  const mx::Shape kept = {x.shape(0), weight.shape(1) - 1, x.shape(2)}, channels = {x.shape(2)};
  need((!bias || bias->shape() == channels) && (!state || state->shape() == kept),
       "causal_conv: the shape of bias or state does not fit x and weight");
  // A kernel of one step has an empty state.
  const bool carried = state && kept[1] > 0;
  if (carried) {
    need(is_kernel_float(state->dtype()), "causal_conv: the state must be a float array");
    inputs.push_back(mx::astype(*state, x.dtype(), cpu_stream()));
  }
  if (any_traced(inputs)) {
    return std::nullopt;
  }
  ConvOptions options{bias.has_value(), carried};
  return pair_of(x.shape(), type, kept, x.dtype(), std::make_shared<CausalConv>(cpu_stream(), options),
                 std::move(inputs));
}

}  // namespace

}  // namespace mlx_lm

MLX_LM_BIND(m) {
  using namespace mlx_lm;
  using namespace nb::literals;
  m.def("gated_delta", &gated_delta, "q"_a, "k"_a, "v"_a, "log_decay"_a, "beta"_a, "state"_a.none());
  m.def("selective_scan", [](const mx::array& x, const mx::array& dt, const mx::array& a, const mx::array& b,
                             const mx::array& c, const std::optional<mx::array>& d,
                             const std::optional<mx::array>& state) { return scan(false, x, dt, a, b, c, d, state); },
        "x"_a, "dt"_a, "a"_a, "b"_a, "c"_a, "d"_a.none(), "state"_a.none());
  m.def("diagonal_scan", [](const mx::array& x, const mx::array& dt, const mx::array& a, const mx::array& b,
                            const mx::array& c, const std::optional<mx::array>& d,
                            const std::optional<mx::array>& state) { return scan(true, x, dt, a, b, c, d, state); },
        "x"_a, "dt"_a, "a"_a, "b"_a, "c"_a, "d"_a.none(), "state"_a.none());
  m.def("causal_conv", &causal_conv, "x"_a, "weight"_a, "bias"_a.none(), "state"_a.none());
}
