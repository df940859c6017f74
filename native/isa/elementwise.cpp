// Norms, rotation and activations of one row.
#include "elementwise.h"

#include "row_functions.h"

namespace mlx_lm::MLX_LM_ISA {
namespace {

// ---------------------------------------------------------------- norms

void rms_norm(const void* x, Float xt, const float* weight, float eps, int64_t n, void* y, Float yt) {
  F s0 = zero(), s1 = zero();
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    F a = load_any(x, xt, i), b = load_any(x, xt, i + 16);
    s0 = fma(a, a, s0);
    s1 = fma(b, b, s1);
  }
  for (; i < n; i += 16) {
    F a = get(x, xt, i, n - i < 16 ? (int)(n - i) : 16);
    s0 = fma(a, a, s0);
  }
  F factor = set1(1.0f / __builtin_sqrtf(reduce_add(s0 + s1) / (float)n + eps));
  each16(n, [&](int64_t at, int lanes) {
    F v = get(x, xt, at, lanes) * factor;
    put(y, yt, at, weight == nullptr ? v : v * get(weight, Float::f32, at, lanes), lanes);
  });
}

void layer_norm(const void* x, Float xt, const float* weight, const float* bias, float eps, int64_t n, void* y,
                Float yt) {
  F s = zero();
  each16(n, [&](int64_t at, int lanes) { s = s + get(x, xt, at, lanes); });
  F mean = set1(reduce_add(s) / (float)n);
  F q = zero();
  each16(n, [&](int64_t at, int lanes) {
    F d = first_lanes(get(x, xt, at, lanes) - mean, lanes);
    q = fma(d, d, q);
  });
  F factor = set1(1.0f / __builtin_sqrtf(reduce_add(q) / (float)n + eps));
  each16(n, [&](int64_t at, int lanes) {
    F v = (get(x, xt, at, lanes) - mean) * factor;
    v = weight == nullptr ? v : v * get(weight, Float::f32, at, lanes);
    put(y, yt, at, bias == nullptr ? v : v + get(bias, Float::f32, at, lanes), lanes);
  });
}

// ---------------------------------------------------------------- activations

template <Act act>
MLX_INLINE F apply(F x) {
  switch (act) {
    case Act::silu:
      return x * sigmoid(x);
    case Act::gelu:
      return x * normal(x);
    case Act::gelu_tanh: {
      F inner = set1(0.7978845608f) * fma(x * x * set1(0.044715f), x, x);
      return x * sigmoid(inner + inner);  // 0.5 (1 + tanh u) = sigmoid(2u)
    }
    case Act::quick_gelu:
      return x * sigmoid(set1(1.702f) * x);
    case Act::relu: {
      MLX_EACH(i) x.v[i] = x.v[i] < nf{} ? nf{} : x.v[i];
      return x;
    }
    case Act::relu2: {
      MLX_EACH(i) x.v[i] = x.v[i] < nf{} ? nf{} : x.v[i];
      return x * x;
    }
    case Act::sigmoid:
      return sigmoid(x);
    case Act::tanh:
      return tanh(x);
    default:
      return x;
  }
}

template <Act act>
void activate_as(const void* gate, Float gt, const void* up, Float ut, int64_t n, void* y, Float yt) {
  each16(n, [&](int64_t at, int lanes) {
    F v = apply<act>(get(gate, gt, at, lanes));
    put(y, yt, at, up == nullptr ? v : v * get(up, ut, at, lanes), lanes);
  });
}

void activate(Act act, const void* gate, Float gt, const void* up, Float ut, int64_t n, void* y, Float yt) {
  switch (act) {
    case Act::silu:
      return activate_as<Act::silu>(gate, gt, up, ut, n, y, yt);
    case Act::gelu:
      return activate_as<Act::gelu>(gate, gt, up, ut, n, y, yt);
    case Act::gelu_tanh:
      return activate_as<Act::gelu_tanh>(gate, gt, up, ut, n, y, yt);
    case Act::quick_gelu:
      return activate_as<Act::quick_gelu>(gate, gt, up, ut, n, y, yt);
    case Act::relu:
      return activate_as<Act::relu>(gate, gt, up, ut, n, y, yt);
    case Act::relu2:
      return activate_as<Act::relu2>(gate, gt, up, ut, n, y, yt);
    case Act::sigmoid:
      return activate_as<Act::sigmoid>(gate, gt, up, ut, n, y, yt);
    case Act::tanh:
      return activate_as<Act::tanh>(gate, gt, up, ut, n, y, yt);
    default:
      return activate_as<Act::none>(gate, gt, up, ut, n, y, yt);
  }
}

// ---------------------------------------------------------------- rotation

void rotate(const void* x, Float xt, const float* cosines, const float* sines, float scale, int64_t dims,
            bool traditional, int64_t n, void* y, Float yt) {
  const int64_t half = dims / 2;
  const F factor = set1(scale);
  if (!traditional) {
    each16(half, [&](int64_t at, int lanes) {
      F a = get(x, xt, at, lanes) * factor, b = get(x, xt, half + at, lanes) * factor;
      F c = get(cosines, Float::f32, at, lanes), s = get(sines, Float::f32, at, lanes);
      put(y, yt, at, a * c - b * s, lanes);
      put(y, yt, half + at, a * s + b * c, lanes);
    });
  } else {
    each16(half, [&](int64_t at, int lanes) {
      alignas(64) float pairs[32] = {}, a[16], b[16];
      int first = lanes < 8 ? 2 * lanes : 16;
      store(pairs, get(x, xt, 2 * at, first));
      if (lanes > 8) {
        store(pairs + 16, get(x, xt, 2 * at + 16, 2 * lanes - 16));
      }
      for (int i = 0; i < 16; ++i) {
        a[i] = pairs[2 * i];
        b[i] = pairs[2 * i + 1];
      }
      F va = load(a) * factor, vb = load(b) * factor;
      F c = get(cosines, Float::f32, at, lanes), s = get(sines, Float::f32, at, lanes);
      store(a, va * c - vb * s);
      store(b, va * s + vb * c);
      for (int i = 0; i < 16; ++i) {
        pairs[2 * i] = a[i];
        pairs[2 * i + 1] = b[i];
      }
      put(y, yt, 2 * at, load(pairs), first);
      if (lanes > 8) {
        put(y, yt, 2 * at + 16, load(pairs + 16), 2 * lanes - 16);
      }
    });
  }
  each16(n - 2 * half, [&](int64_t at, int lanes) {
    put(y, yt, 2 * half + at, get(x, xt, 2 * half + at, lanes), lanes);
  });
}

void add(float* x, const float* y, const float* bias, float scale, int64_t n) {
  F factor = set1(scale);
  each16(n, [&](int64_t at, int lanes) {
    F v = get(y, Float::f32, at, lanes);
    if (bias != nullptr) {
      v = v + get(bias, Float::f32, at, lanes);
    }
    put(x, Float::f32, at, fma(v, factor, get(x, Float::f32, at, lanes)), lanes);
  });
}

void convert(const void* x, Float xt, int64_t n, void* y, Float yt) {
  each16(n, [&](int64_t at, int lanes) { put(y, yt, at, get(x, xt, at, lanes), lanes); });
}

int64_t argmax(const void* x, Float type, int64_t n) {
  float best = -__builtin_inff();
  int64_t found = 0;
  alignas(64) float t[16];
  constexpr int64_t step = 256;
  for (int64_t i = 0; i < n; i += step) {
    int64_t m = n - i < step ? n - i : step;
    F top = set1(-__builtin_inff()), bad = zero();
    each16(m, [&](int64_t at, int lanes) {
      F v = get(x, type, i + at, lanes);
      if (lanes < 16) {
        store(t, v);
        for (int j = lanes; j < 16; ++j) t[j] = -__builtin_inff();
        v = load(t);
      }
      MLX_EACH(k) bad.v[k] = v.v[k] != v.v[k] ? nf{} + 1.0f : bad.v[k];
      top = max(v, top);
    });
    bool nan = reduce_max(bad) > 0;
    float peak = reduce_max(top);
    if (!nan && !(peak > best)) {
      continue;
    }
    for (int64_t j = i; j < i + m; ++j) {
      float v;
      if (type == Float::f32) {
        v = ((const float*)x)[j];
      } else {
        uint16_t h = ((const uint16_t*)x)[j];
        v = type == Float::bf16 ? bf16_to_float(h) : f16_to_float(h);
      }
      if (v != v) {
        return j;
      }
      if (v > best) {
        best = v;
        found = j;
      }
    }
  }
  return found;
}

}  // namespace

extern const RowKernels row_kernels_table = {rms_norm, layer_norm, activate, rotate, add, convert, argmax};

}  // namespace mlx_lm::MLX_LM_ISA
