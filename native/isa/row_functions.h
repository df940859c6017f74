// What the kernels of one row share: walking its vectors, and the functions behind activations.
#pragma once

#include "simd.h"

namespace mlx_lm::MLX_LM_ISA {
namespace {

// Calls body(vector index i, valid lanes n) over n elements; n is 16 but for the last.
template <class Body>
MLX_INLINE void each16(int64_t n, Body&& body) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) body(i, 16);
  if (i < n) body(i, (int)(n - i));
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

MLX_INLINE F sigmoid(F x) {
  return set1(1.0f) / (set1(1.0f) + exp(zero() - x));
}
MLX_INLINE F tanh(F x) {
  // 1 - 2/(e^2x + 1) away from zero; near it that cancels, and a Taylor polynomial serves
  F big = set1(1.0f) - set1(2.0f) / (exp(x + x) + set1(1.0f));
  F x2 = x * x;
  F p = fma(x2, set1(-17.0f / 315.0f), set1(2.0f / 15.0f));
  p = fma(p, x2, set1(-1.0f / 3.0f));
  F small = fma(p * x2, x, x);
  F a = abs(x);
  MLX_EACH(i) big.v[i] = a.v[i] < set1(0.1f).v[i] ? small.v[i] : big.v[i];
  return big;
}
// Complementary error function of a >= 0 times exp(a^2): Chebyshev fit in (a - 2) / (a + 2), 2e-7 relative.
MLX_INLINE F scaled_erfc(F a) {
  F t = (a - set1(2.0f)) / (a + set1(2.0f));
  constexpr float c[] = {
      1.513618008e-05f,  -3.869810898e-04f, -1.254512696e-03f, 1.292583998e-03f,  8.644653484e-03f, -8.050130680e-03f,
      -5.420714989e-02f, 1.640537679e-01f,  -1.660311818e-01f, -9.276391566e-02f, 1.276978374e+00f};
  F p = set1(c[0]);
  _Pragma("GCC unroll 16") for (int i = 1; i < (int)(sizeof(c) / sizeof(float)); ++i) p = fma(p, t, set1(c[i]));
  return p / (set1(1.0f) + a + a);
}
// Cumulative normal distribution: Phi(-|x|) = erfc(|x|/sqrt 2) / 2.
MLX_INLINE F normal(F x) {
  F a = abs(x) * set1(0.70710678118f);
  F lower = set1(0.5f) * scaled_erfc(a) * exp(zero() - a * a);
  F upper = set1(1.0f) - lower;
  F phi = lower;
  MLX_EACH(i) phi.v[i] = x.v[i] > nf{} ? upper.v[i] : lower.v[i];
  MLX_EACH(i) phi.v[i] = a.v[i] > set1(9.0f).v[i] ? (x.v[i] > nf{} ? nf{} + 1.0f : nf{}) : phi.v[i];
  return phi;
}

}  // namespace
}  // namespace mlx_lm::MLX_LM_ISA
