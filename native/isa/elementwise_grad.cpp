// Gradients of norms and activations, one row at a time.
#include "elementwise_grad.h"

#include "row_functions.h"

namespace mlx_lm::MLX_LM_ISA {
namespace {

// ---------------------------------------------------------------- norms

// to += v over the first `lanes` elements at `at`; nothing when `to` is null.
MLX_INLINE void add_to(float* to, int64_t at, F v, int lanes) {
  if (to != nullptr) {
    put(to, Float::f32, at, get(to, Float::f32, at, lanes) + v, lanes);
  }
}
MLX_INLINE F weighted(const void* dy, Float dyt, const float* weight, int64_t at, int lanes) {
  F g = get(dy, dyt, at, lanes);
  return weight == nullptr ? g : g * get(weight, Float::f32, at, lanes);
}

// With h = (x - mean) / deviation and g = dy * weight: dx = (g - mean(g) - h * mean(g * h)) / deviation, where a root
// mean square norm has neither mean.
template <bool centred>
MLX_INLINE void norm_as(const NormGradient& o, const void* x, const void* dy, void* dx, float* dweight, float* dbias) {
  const int64_t n = o.n;
  const float count = (float)n;
  F mean = zero(), sum = zero(), both = zero(), all = zero();
  if constexpr (centred) {
    each16(n, [&](int64_t at, int lanes) { sum = sum + get(x, o.x_type, at, lanes); });
    mean = set1(reduce_add(sum) / count);
  }
  sum = zero();
  each16(n, [&](int64_t at, int lanes) {
    F d = first_lanes(get(x, o.x_type, at, lanes) - mean, lanes);
    F g = weighted(dy, o.dy_type, o.weight, at, lanes);
    sum = fma(d, d, sum);
    both = fma(d, g, both);
    all = all + g;
  });
  const float inverse = 1.0f / __builtin_sqrtf(reduce_add(sum) / count + o.eps);
  const F r = set1(inverse), slope = set1(reduce_add(both) / count * inverse * inverse);
  const F level = centred ? set1(reduce_add(all) / count) : zero();
  each16(n, [&](int64_t at, int lanes) {
    F d = get(x, o.x_type, at, lanes) - mean, g = weighted(dy, o.dy_type, o.weight, at, lanes);
    put(dx, o.x_type, at, (g - level - d * slope) * r, lanes);
    F up = get(dy, o.dy_type, at, lanes);
    add_to(dweight, at, up * d * r, lanes);
    add_to(dbias, at, up, lanes);
  });
}

void norm(const NormGradient& o, const void* x, const void* dy, void* dx, float* dweight, float* dbias) {
  return o.centred ? norm_as<true>(o, x, dy, dx, dweight, dbias) : norm_as<false>(o, x, dy, dx, dweight, dbias);
}

// ---------------------------------------------------------------- activations

struct Slope {
  F value, slope;
};

// x * s and its slope, where s = sigmoid(inner) and `rate` is the slope of inner.
MLX_INLINE Slope gated_by_sigmoid(F x, F inner, F rate) {
  F s = sigmoid(inner);
  return {x * s, fma(x * s * (set1(1.0f) - s), rate, s)};
}

template <Act act>
MLX_INLINE Slope slope_of(F x) {
  const F one = set1(1.0f);
  switch (act) {
    case Act::silu:
      return gated_by_sigmoid(x, x, one);
    case Act::gelu: {
      F phi = normal(x), density = set1(0.3989422804f) * exp(set1(-0.5f) * x * x);
      return {x * phi, fma(x, density, phi)};
    }
    case Act::gelu_tanh: {
      const F factor = set1(2.0f * 0.7978845608f), cubic = set1(0.044715f);
      F square = x * x * cubic;
      return gated_by_sigmoid(x, factor * fma(square, x, x), factor * fma(square, set1(3.0f), one));
    }
    case Act::quick_gelu:
      return gated_by_sigmoid(x, set1(1.702f) * x, set1(1.702f));
    case Act::relu:
    case Act::relu2: {
      F step = zero();
      MLX_EACH(i) {
        step.v[i] = x.v[i] > nf{} ? one.v[i] : step.v[i];
        x.v[i] = x.v[i] < nf{} ? nf{} : x.v[i];
      }
      return act == Act::relu ? Slope{x, step} : Slope{x * x, x + x};
    }
    case Act::sigmoid: {
      F s = sigmoid(x);
      return {s, s * (one - s)};
    }
    case Act::tanh: {
      F t = tanh(x);
      return {t, one - t * t};
    }
    default:
      return {x, one};
  }
}

template <Act act>
void activate_as(const ActivationGradient& o, const void* gate, const void* up, const void* dy, void* dgate,
                 void* dup, int64_t n) {
  each16(n, [&](int64_t at, int lanes) {
    Slope f = slope_of<act>(get(gate, o.gate_type, at, lanes));
    F g = get(dy, o.dy_type, at, lanes);
    if (up == nullptr) {
      put(dgate, o.gate_type, at, g * f.slope, lanes);
    } else {
      put(dup, o.up_type, at, g * f.value, lanes);
      put(dgate, o.gate_type, at, g * get(up, o.up_type, at, lanes) * f.slope, lanes);
    }
  });
}

void activate(const ActivationGradient& o, const void* gate, const void* up, const void* dy, void* dgate, void* dup,
              int64_t n) {
  switch (o.act) {
    case Act::silu:
      return activate_as<Act::silu>(o, gate, up, dy, dgate, dup, n);
    case Act::gelu:
      return activate_as<Act::gelu>(o, gate, up, dy, dgate, dup, n);
    case Act::gelu_tanh:
      return activate_as<Act::gelu_tanh>(o, gate, up, dy, dgate, dup, n);
    case Act::quick_gelu:
      return activate_as<Act::quick_gelu>(o, gate, up, dy, dgate, dup, n);
    case Act::relu:
      return activate_as<Act::relu>(o, gate, up, dy, dgate, dup, n);
    case Act::relu2:
      return activate_as<Act::relu2>(o, gate, up, dy, dgate, dup, n);
    case Act::sigmoid:
      return activate_as<Act::sigmoid>(o, gate, up, dy, dgate, dup, n);
    case Act::tanh:
      return activate_as<Act::tanh>(o, gate, up, dy, dgate, dup, n);
    default:
      return activate_as<Act::none>(o, gate, up, dy, dgate, dup, n);
  }
}

}  // namespace

extern const GradientKernels gradient_kernels_table = {norm, activate};

}  // namespace mlx_lm::MLX_LM_ISA
