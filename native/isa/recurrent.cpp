// Gated delta rule, selective scans and short causal convolution.
#include "recurrent.h"

#include "simd.h"

namespace mlx_lm::MLX_LM_ISA {
namespace {

MLX_INLINE int lanes_at(int64_t i, int64_t n) {
  return n - i < 16 ? (int)(n - i) : 16;
}
MLX_INLINE F get(const void* p, Float type, int64_t i, int n) {
  return n == 16 ? load_any(p, type, i) : load_any_first(p, type, i, n);
}
MLX_INLINE void put(void* p, Float type, int64_t i, F v, int n) {
  if (n == 16) {
    store_any(p, type, i, v);
  } else {
    store_any_first(p, type, i, v, n);
  }
}
MLX_INLINE float scalar(const char* p, Float type) {
  if (type == Float::f32) {
    float v;
    __builtin_memcpy(&v, p, 4);
    return v;
  }
  uint16_t h;
  __builtin_memcpy(&h, p, 2);
  return type == Float::bf16 ? bf16_to_float(h) : f16_to_float(h);
}
MLX_INLINE float first_lane(F a) {
  float t[16];
  store(t, a);
  return t[0];
}

// to[0..n) as float32, zeros up to the next multiple of 16.
void widen(float* to, const char* from, Float type, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) {
    int lanes = lanes_at(i, n);
    store(to + i, first_lanes(get(from, type, i, lanes), lanes));
  }
}

// Lane i: the sum of a[i]'s lanes, in one fixed order.
MLX_INLINE F sum_each(const F a[16]) {
  I in[16], out[16];
  for (int i = 0; i < 16; ++i) in[i] = as_int(a[i]);
  transpose16(in, out);
  F s[16];
  for (int i = 0; i < 16; ++i) s[i] = as_float(out[i]);
  for (int half = 8; half >= 1; half /= 2) {
    for (int i = 0; i < half; ++i) s[i] = s[i] + s[i + half];
  }
  return s[0];
}

// The float32 working copy of a block's state: the new state itself where that is possible, else scratch.
struct Work {
  const float* from;  // before the next step; the caller's state at first
  float* to;
  int64_t pitch;
  bool direct;
};

Work open(const StateBlock& s, float* scratch) {
  const int64_t pitch = (s.width + 15) / 16 * 16;
  Work w{nullptr, scratch, pitch, s.state_type == Float::f32 && pitch == s.width};
  if (w.direct) {
    w.to = (float*)s.new_state;
    if (s.state != nullptr) {
      w.from = (const float*)s.state;
      return w;
    }
  }
  w.from = w.to;
  if (s.state == nullptr) {
    for (int64_t i = 0; i < s.rows * pitch; i += 16) store(w.to + i, zero());
    return w;
  }
  const int64_t bytes = s.width * float_bytes(s.state_type);
  for (int64_t r = 0; r < s.rows; ++r) widen(w.to + r * pitch, s.state + r * bytes, s.state_type, s.width);
  return w;
}

// After a step: what the state's own type holds of it.
void settle(const StateBlock& s, Work& w) {
  w.from = w.to;
  if (s.state_type != Float::f32) {
    alignas(64) float t[16];
    for (int64_t i = 0; i < s.rows * w.pitch; i += 16) {
      store_any(t, s.state_type, 0, load(w.to + i));
      store(w.to + i, load_any(t, s.state_type, 0));
    }
  }
}

void close(const StateBlock& s, const Work& w) {
  if (w.direct) {
    return;
  }
  const int64_t bytes = s.width * float_bytes(s.state_type);
  for (int64_t r = 0; r < s.rows; ++r) {
    for (int64_t i = 0; i < s.width; i += 16) {
      put(s.new_state + r * bytes, s.state_type, i, load(w.to + r * w.pitch + i), lanes_at(i, s.width));
    }
  }
}

// Calls body.template operator()<R>(first row) over n rows, four at a time: their sums are independent.
template <class Body>
MLX_INLINE void each_rows(int64_t n, Body&& body) {
  int64_t r = 0;
  for (; r + 4 <= n; r += 4) body.template operator()<4>(r);
  for (; r < n; ++r) body.template operator()<1>(r);
}

// ---------------------------------------------------------------- gated delta rule

template <bool per_channel>
MLX_INLINE F decayed(const float* from, const float* decay, F whole, int64_t i) {
  return load(from + i) * (per_channel ? load(decay + i) : whole);
}

template <bool per_channel>
void delta_as(const DeltaBlock& block) {
  const StateBlock& s = block.base;
  const int64_t pitch = (s.width + 15) / 16 * 16;
  float *k = s.scratch, *q = k + pitch, *decay = q + pitch;
  Work w = open(s, decay + pitch);
  alignas(64) float delta[16];
  for (int64_t t = 0; t < s.length; ++t) {
    widen(k, block.k.data + t * block.k.step, block.k.type, s.width);
    widen(q, block.q.data + t * block.q.step, block.q.type, s.width);
    const char* log_decay = block.decay.data + t * block.decay.step;
    F whole = zero();
    if (per_channel) {
      widen(decay, log_decay, block.decay.type, s.width);
      for (int64_t i = 0; i < pitch; i += 16) store(decay + i, exp(load(decay + i)));
    } else {
      whole = set1(first_lane(exp(set1(scalar(log_decay, block.decay.type)))));
    }
    const F beta = set1(scalar(block.beta.data + t * block.beta.step, block.beta.type));
    for (int64_t r0 = 0; r0 < s.rows; r0 += 16) {
      const int n = lanes_at(r0, s.rows);
      F acc[16];
      for (int i = 0; i < 16; ++i) acc[i] = zero();
      each_rows(n, [&]<int R>(int64_t r) __attribute__((always_inline)) {
        const float* from = w.from + (r0 + r) * pitch;
        F a[R];
        for (int j = 0; j < R; ++j) a[j] = zero();
        for (int64_t i = 0; i < pitch; i += 16) {
          const F key = load(k + i);
          for (int j = 0; j < R; ++j) {
            a[j] = fma(decayed<per_channel>(from + j * pitch, decay, whole, i), key, a[j]);
          }
        }
        for (int j = 0; j < R; ++j) acc[r + j] = a[j];
      });
      F v = get(block.v.data + t * block.v.step, block.v.type, r0, n);
      store(delta, (v - sum_each(acc)) * beta);
      each_rows(n, [&]<int R>(int64_t r) __attribute__((always_inline)) {
        const float* from = w.from + (r0 + r) * pitch;
        float* to = w.to + (r0 + r) * pitch;
        F a[R], change[R];
        for (int j = 0; j < R; ++j) {
          a[j] = zero();
          change[j] = set1(delta[r + j]);
        }
        for (int64_t i = 0; i < pitch; i += 16) {
          const F key = load(k + i), query = load(q + i);
          for (int j = 0; j < R; ++j) {
            F row = fma(change[j], key, decayed<per_channel>(from + j * pitch, decay, whole, i));
            store(to + j * pitch + i, row);
            a[j] = fma(row, query, a[j]);
          }
        }
        for (int j = 0; j < R; ++j) acc[r + j] = a[j];
      });
      put(s.y + t * s.y_step, s.y_type, r0, sum_each(acc), n);
    }
    settle(s, w);
  }
  close(s, w);
}

void gated_delta(const DeltaBlock& block) {
  return block.per_channel ? delta_as<true>(block) : delta_as<false>(block);
}

// ---------------------------------------------------------------- selective scans

template <bool diagonal>
void scan_as(const ScanBlock& block) {
  const StateBlock& s = block.base;
  const int64_t pitch = (s.width + 15) / 16 * 16;
  float *b = s.scratch, *c = b + pitch;
  Work w = open(s, c + 2 * pitch);
  alignas(64) float write[16], step[16];
  for (int64_t t = 0; t < s.length; ++t) {
    widen(b, block.b.data + t * block.b.step, block.b.type, s.width);
    widen(c, block.c.data + t * block.c.step, block.c.type, s.width);
    const char *xs = block.x.data + t * block.x.step, *steps = block.dt.data + t * block.dt.step;
    F dt = zero(), whole = zero();
    if (!diagonal) {
      dt = set1(scalar(steps, block.dt.type));
      whole = set1(first_lane(exp(dt * set1(block.a[0]))));
    }
    for (int64_t r0 = 0; r0 < s.rows; r0 += 16) {
      const int n = lanes_at(r0, s.rows);
      const F x = get(xs, block.x.type, r0, n);
      if (diagonal) {
        dt = get(steps, block.dt.type, r0, n);
        store(step, dt);
      }
      store(write, x * dt);
      F acc[16];
      for (int i = 0; i < 16; ++i) acc[i] = zero();
      each_rows(n, [&]<int R>(int64_t r) __attribute__((always_inline)) {
        const float* from = w.from + (r0 + r) * pitch;
        float* to = w.to + (r0 + r) * pitch;
        F sum[R], scale[R], change[R];
        for (int j = 0; j < R; ++j) {
          sum[j] = zero();
          scale[j] = diagonal ? set1(step[r + j]) : whole;
          change[j] = set1(write[r + j]);
        }
        for (int64_t i = 0; i < pitch; i += 16) {
          const F bi = load(b + i), ci = load(c + i);
          const int lanes = lanes_at(i, s.width);
          for (int j = 0; j < R; ++j) {
            F decay = scale[j];
            if (diagonal) {
              decay = exp(decay * get(block.a + (r0 + r + j) * s.width, Float::f32, i, lanes));
            }
            F row = fma(load(from + j * pitch + i), decay, change[j] * bi);
            store(to + j * pitch + i, row);
            sum[j] = fma(row, ci, sum[j]);
          }
        }
        for (int j = 0; j < R; ++j) acc[r + j] = sum[j];
      });
      F y = sum_each(acc);
      if (block.d != nullptr) {
        y = fma(x, diagonal ? get(block.d, Float::f32, r0, n) : set1(block.d[0]), y);
      }
      put(s.y + t * s.y_step, s.y_type, r0, y, n);
    }
    settle(s, w);
  }
  close(s, w);
}

void scan(const ScanBlock& block) {
  return block.diagonal ? scan_as<true>(block) : scan_as<false>(block);
}

// ---------------------------------------------------------------- causal convolution

void causal_conv(const ConvBlock& o) {
  float *taps = o.scratch, *flat = taps + conv_channels * o.kernel;  // taps: (kernel, conv_channels)
  const int64_t count = o.channels * o.kernel;
  for (int64_t i = 0; i < count; i += 16) {
    const int n = lanes_at(i, count);
    put(flat, Float::f32, i, get(o.weight, o.weight_type, i, n), n);
  }
  for (int64_t c = 0; c < o.channels; ++c) {
    for (int64_t k = 0; k < o.kernel; ++k) taps[k * conv_channels + c] = flat[c * o.kernel + k];
  }
  for (int64_t c = 0; c < o.channels; c += 16) {
    const int n = lanes_at(c, o.channels);
    const F bias = o.bias == nullptr ? zero() : get(o.bias, o.bias_type, c, n);
    for (int64_t t = o.begin; t < o.end; ++t) {
      F sum = zero();
      for (int64_t k = 0; k < o.kernel; ++k) {
        const int64_t at = t + k - (o.kernel - 1);
        const Steps& from = at < 0 ? o.state : o.x;
        const char* row = from.data + (at < 0 ? at + o.kernel - 1 : at) * from.step;
        sum = fma(get(row, from.type, c, n), get(taps + k * conv_channels, Float::f32, c, n), sum);
      }
      put(o.y + (t - o.begin) * o.y_step, o.y_type, c, o.bias == nullptr ? sum : sum + bias, n);
    }
  }
}

}  // namespace

extern const RecurrentKernels recurrent_kernels_table = {gated_delta, scan, causal_conv};

}  // namespace mlx_lm::MLX_LM_ISA
