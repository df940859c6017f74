// Sixteen lanes of float or int32 on every instruction set: one 512-bit register, two of 256 or four of 128.
//
// Only for files under native/isa (needs MLX_LM_ISA). Everything is in mlx_lm::<isa>, forced inline, and written with
// GCC vector types, so that one source serves SSE2, AVX2, AVX-512 and NEON; intrinsics only where a plain expression
// has no equal. Lane order is memory order. `fma` is one rounding where the set has it (avx2, avx512, dotprod and
// base on aarch64) and two on SSE2.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "types.h"

#define MLX_INLINE inline __attribute__((always_inline))

namespace mlx_lm::MLX_LM_ISA {

#if defined(MLX_LM_ISA_avx512)
constexpr int native_bytes = 64;
#elif defined(MLX_LM_ISA_avx2)
constexpr int native_bytes = 32;
#else
constexpr int native_bytes = 16;
#endif
constexpr int native_lanes = native_bytes / 4;
constexpr int parts = 64 / native_bytes;

typedef float nf __attribute__((vector_size(native_bytes), aligned(native_bytes)));
typedef int32_t ni __attribute__((vector_size(native_bytes), aligned(native_bytes)));
typedef uint32_t nu __attribute__((vector_size(native_bytes), aligned(native_bytes)));

struct F {
  nf v[parts];
};
struct I {
  ni v[parts];
};

#define MLX_EACH(i) _Pragma("GCC unroll 4") for (int i = 0; i < parts; ++i)

// ---------------------------------------------------------------- moving data

MLX_INLINE F load(const float* p) {
  F r;
  MLX_EACH(i) __builtin_memcpy(&r.v[i], p + i * native_lanes, native_bytes);
  return r;
}
MLX_INLINE void store(float* p, F a) {
  MLX_EACH(i) __builtin_memcpy(p + i * native_lanes, &a.v[i], native_bytes);
}
MLX_INLINE I load_i(const void* p) {
  I r;
  MLX_EACH(i) __builtin_memcpy(&r.v[i], (const char*)p + i * native_bytes, native_bytes);
  return r;
}
MLX_INLINE void store_i(void* p, I a) {
  MLX_EACH(i) __builtin_memcpy((char*)p + i * native_bytes, &a.v[i], native_bytes);
}
MLX_INLINE F set1(float x) {
  F r;
#if defined(MLX_LM_ISA_avx512)
  r.v[0] = (nf)_mm512_set1_ps(x);
#elif defined(MLX_LM_ISA_avx2)
  r.v[0] = r.v[1] = (nf)_mm256_set1_ps(x);
#else
  MLX_EACH(i) r.v[i] = nf{x, x, x, x};
#endif
  return r;
}
MLX_INLINE I set1_i(int32_t x) {
  I r;
#if defined(MLX_LM_ISA_avx512)
  r.v[0] = (ni)_mm512_set1_epi32(x);
#elif defined(MLX_LM_ISA_avx2)
  r.v[0] = r.v[1] = (ni)_mm256_set1_epi32(x);
#else
  MLX_EACH(i) r.v[i] = ni{x, x, x, x};
#endif
  return r;
}
MLX_INLINE F zero() {
  F r;
  MLX_EACH(i) r.v[i] = nf{};
  return r;
}
MLX_INLINE I zero_i() {
  I r;
  MLX_EACH(i) r.v[i] = ni{};
  return r;
}

// ---------------------------------------------------------------- arithmetic

MLX_INLINE F operator+(F a, F b) {
  MLX_EACH(i) a.v[i] = a.v[i] + b.v[i];
  return a;
}
MLX_INLINE F operator-(F a, F b) {
  MLX_EACH(i) a.v[i] = a.v[i] - b.v[i];
  return a;
}
MLX_INLINE F operator*(F a, F b) {
  MLX_EACH(i) a.v[i] = a.v[i] * b.v[i];
  return a;
}
MLX_INLINE F operator/(F a, F b) {
  MLX_EACH(i) a.v[i] = a.v[i] / b.v[i];
  return a;
}
// a * b + c
MLX_INLINE F fma(F a, F b, F c) {
#if defined(MLX_LM_ISA_avx512)
  c.v[0] = (nf)_mm512_fmadd_ps((__m512)a.v[0], (__m512)b.v[0], (__m512)c.v[0]);
#elif defined(MLX_LM_ISA_avx2)
  MLX_EACH(i) c.v[i] = (nf)_mm256_fmadd_ps((__m256)a.v[i], (__m256)b.v[i], (__m256)c.v[i]);
#elif defined(__aarch64__)
  MLX_EACH(i) c.v[i] = (nf)vfmaq_f32((float32x4_t)c.v[i], (float32x4_t)a.v[i], (float32x4_t)b.v[i]);
#else
  MLX_EACH(i) c.v[i] = a.v[i] * b.v[i] + c.v[i];
#endif
  return c;
}
// The scalar twin of `fma`: same rounding as one lane of it.
MLX_INLINE float fma1(float a, float b, float c) {
#if defined(MLX_LM_ISA_avx512) || defined(MLX_LM_ISA_avx2) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
// Lanes where a is NaN give b, as x86 max does.
MLX_INLINE F max(F a, F b) {
  MLX_EACH(i) a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return a;
}
MLX_INLINE F min(F a, F b) {
  MLX_EACH(i) a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
  return a;
}
MLX_INLINE I operator+(I a, I b) {
  MLX_EACH(i) a.v[i] = (ni)((nu)a.v[i] + (nu)b.v[i]);
  return a;
}
MLX_INLINE I operator-(I a, I b) {
  MLX_EACH(i) a.v[i] = (ni)((nu)a.v[i] - (nu)b.v[i]);
  return a;
}
MLX_INLINE I operator&(I a, I b) {
  MLX_EACH(i) a.v[i] = a.v[i] & b.v[i];
  return a;
}
MLX_INLINE I operator|(I a, I b) {
  MLX_EACH(i) a.v[i] = a.v[i] | b.v[i];
  return a;
}
MLX_INLINE I operator^(I a, I b) {
  MLX_EACH(i) a.v[i] = a.v[i] ^ b.v[i];
  return a;
}
// Logical shifts.
MLX_INLINE I shr(I a, int n) {
  MLX_EACH(i) a.v[i] = (ni)((nu)a.v[i] >> n);
  return a;
}
MLX_INLINE I shl(I a, int n) {
  MLX_EACH(i) a.v[i] = (ni)((nu)a.v[i] << n);
  return a;
}
MLX_INLINE F as_float(I a) {
  F r;
  MLX_EACH(i) r.v[i] = (nf)a.v[i];
  return r;
}
MLX_INLINE I as_int(F a) {
  I r;
  MLX_EACH(i) r.v[i] = (ni)a.v[i];
  return r;
}
MLX_INLINE F to_float(I a) {
  F r;
  MLX_EACH(i) r.v[i] = __builtin_convertvector(a.v[i], nf);
  return r;
}
// Round half to even; NaN and out-of-range values give INT32_MIN on x86 and saturate on aarch64.
MLX_INLINE I round_int(F a) {
  I r;
#if defined(MLX_LM_ISA_avx512)
  r.v[0] = (ni)_mm512_cvtps_epi32((__m512)a.v[0]);
#elif defined(MLX_LM_ISA_avx2)
  MLX_EACH(i) r.v[i] = (ni)_mm256_cvtps_epi32((__m256)a.v[i]);
#elif defined(__x86_64__)
  MLX_EACH(i) r.v[i] = (ni)_mm_cvtps_epi32((__m128)a.v[i]);
#elif defined(__aarch64__)
  MLX_EACH(i) r.v[i] = (ni)vcvtnq_s32_f32((float32x4_t)a.v[i]);
#else
  MLX_EACH(i) for (int j = 0; j < native_lanes; ++j) r.v[i][j] = (int32_t)__builtin_rintf(a.v[i][j]);
#endif
  return r;
}
MLX_INLINE F sqrt(F a) {
#if defined(MLX_LM_ISA_avx512)
  a.v[0] = (nf)_mm512_sqrt_ps((__m512)a.v[0]);
#elif defined(MLX_LM_ISA_avx2)
  MLX_EACH(i) a.v[i] = (nf)_mm256_sqrt_ps((__m256)a.v[i]);
#else
  MLX_EACH(i) for (int j = 0; j < native_lanes; ++j) a.v[i][j] = __builtin_sqrtf(a.v[i][j]);
#endif
  return a;
}
MLX_INLINE F abs(F a) {
  return as_float(as_int(a) & set1_i(0x7fffffff));
}

// Lane i of the result: `at_most`: i < n ? a : 0.
MLX_INLINE F first_lanes(F a, int n) {
  alignas(64) static constexpr int32_t ones[32] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
  n = n < 0 ? 0 : (n > 16 ? 16 : n);
  return as_float(as_int(a) & load_i(ones + 16 - n));
}

// Fixed order, the same on every instruction set: lanes i and i+8, then i+4, i+2, i+1.
MLX_INLINE float reduce_add(F a) {
  float t[16];
  store(t, a);
  for (int half = 8; half >= 1; half /= 2) {
    for (int i = 0; i < half; ++i) {
      t[i] += t[i + half];
    }
  }
  return t[0];
}
MLX_INLINE float reduce_max(F a) {
  float t[16];
  store(t, a);
  for (int half = 8; half >= 1; half /= 2) {
    for (int i = 0; i < half; ++i) {
      t[i] = t[i] > t[i + half] ? t[i] : t[i + half];
    }
  }
  return t[0];
}

// exp(x), about 1 ulp; 0 below -87.3, +inf above 88.7, NaN stays NaN. Cephes-style reduction and polynomial.
MLX_INLINE F exp(F x) {
  F low = set1(-87.33654f), high = set1(88.72283f);
  F c = max(min(high, x), low);  // NaN ends up as `low`; restored below
  I n = round_int(c * set1(1.44269504f));
  F nfl = to_float(n);
  F r = fma(nfl, set1(-0.693359375f), c);
  r = fma(nfl, set1(2.12194440e-4f), r);
  F p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, r * r, r) + set1(1.0f);
  // 2^n in two steps: n reaches 128
  I half = as_int(as_float(shr(n + set1_i(256), 1) - set1_i(128)));
  F s1 = as_float(shl(half + set1_i(127), 23)), s2 = as_float(shl(n - half + set1_i(127), 23));
  F e = p * s1 * s2;
  MLX_EACH(i) {
    e.v[i] = x.v[i] < low.v[i] ? nf{} : e.v[i];
    e.v[i] = x.v[i] > high.v[i] ? (nf{} + __builtin_inff()) : e.v[i];
    e.v[i] = x.v[i] != x.v[i] ? x.v[i] : e.v[i];
  }
  return e;
}

// ---------------------------------------------------------------- products of bytes and of bf16 pairs

// acc + sum over the 4 bytes of each lane of unsigned a times signed b. `small`: every byte of a is below 128, which
// lets AVX2 use the saturating 16-bit multiply and NEON the signed dot product.
template <bool small>
MLX_INLINE I dot4(I acc, I a, I b) {
#if defined(MLX_LM_ISA_avx512)
  acc.v[0] = (ni)_mm512_dpbusd_epi32((__m512i)acc.v[0], (__m512i)a.v[0], (__m512i)b.v[0]);
#elif defined(MLX_LM_ISA_avxvnni)
  MLX_EACH(i) acc.v[i] = (ni)_mm256_dpbusd_avx_epi32((__m256i)acc.v[i], (__m256i)a.v[i], (__m256i)b.v[i]);
#elif defined(MLX_LM_ISA_avx2)
  const __m256i ones = _mm256_set1_epi16(1);
  MLX_EACH(i) {
    __m256i u = (__m256i)a.v[i], s = (__m256i)b.v[i], sum;
    if constexpr (small) {
      sum = _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), ones);
    } else {
      // even and odd bytes apart, in 16 bits: 255 * 128 * 2 would saturate maddubs
      const __m256i low = _mm256_set1_epi16(255);
      __m256i s_even = _mm256_srai_epi16(_mm256_slli_epi16(s, 8), 8), s_odd = _mm256_srai_epi16(s, 8);
      sum = _mm256_add_epi32(_mm256_madd_epi16(_mm256_and_si256(u, low), s_even),
                             _mm256_madd_epi16(_mm256_srli_epi16(u, 8), s_odd));
    }
    acc.v[i] = (ni)_mm256_add_epi32((__m256i)acc.v[i], sum);
  }
#elif defined(MLX_LM_ISA_dotprod)
  MLX_EACH(i) {
    int8x16_t s = (int8x16_t)b.v[i];
    if constexpr (small) {
      acc.v[i] = (ni)vdotq_s32((int32x4_t)acc.v[i], (int8x16_t)a.v[i], s);
    } else {  // a = (a - 128) + 128
      int8x16_t shifted = (int8x16_t)veorq_u8((uint8x16_t)a.v[i], vdupq_n_u8(128));
      int32x4_t sum = vdotq_s32((int32x4_t)acc.v[i], shifted, s);
      acc.v[i] = (ni)vaddq_s32(sum, vshlq_n_s32(vdotq_s32(vdupq_n_s32(0), s, vdupq_n_s8(1)), 7));
    }
  }
#else
  MLX_EACH(i) {
    _Pragma("GCC unroll 4") for (int k = 0; k < 4; ++k) {
      ni u = (ni)((nu)a.v[i] >> (8 * k)) & 255;
      ni s = (ni)((nu)b.v[i] << (24 - 8 * k)) >> 24;
#if defined(__x86_64__)
      // |u| and |s| fit 16 bits, so the 16-bit multiply-add of SSE2 does the 32-bit product that SSE2 lacks
      acc.v[i] += (ni)_mm_madd_epi16((__m128i)u, _mm_and_si128((__m128i)s, _mm_set1_epi32(0xffff)));
#else
      acc.v[i] += u * s;
#endif
    }
  }
#endif
  return acc;
}

#if defined(MLX_LM_ISA_avx512bf16)
constexpr bool has_bf16_dot = true;
// acc + a.even * b.even + a.odd * b.odd for pairs of bf16; flushes denormals.
MLX_INLINE F dot2_bf16(F acc, I a, I b) {
  acc.v[0] = (nf)_mm512_dpbf16_ps((__m512)acc.v[0], (__m512bh)a.v[0], (__m512bh)b.v[0]);
  return acc;
}
#else
constexpr bool has_bf16_dot = false;
MLX_INLINE F dot2_bf16(F acc, I a, I b) {
  const I high = set1_i((int32_t)0xffff0000);
  acc = fma(as_float(shl(a, 16)), as_float(shl(b, 16)), acc);
  return fma(as_float(a & high), as_float(b & high), acc);
}
#endif

// table[lane & 15] for every lane.
MLX_INLINE F lookup16(const float* table, I index) {
#if defined(MLX_LM_ISA_avx512)
  F r;
  r.v[0] = (nf)_mm512_permutexvar_ps((__m512i)index.v[0], _mm512_loadu_ps(table));
  return r;
#elif defined(MLX_LM_ISA_avx2)
  F r;
  __m256 low = _mm256_loadu_ps(table), high = _mm256_loadu_ps(table + 8);
  MLX_EACH(i) {
    __m256 a = _mm256_permutevar8x32_ps(low, (__m256i)index.v[i]);
    __m256 b = _mm256_permutevar8x32_ps(high, (__m256i)index.v[i]);
    r.v[i] = (nf)_mm256_blendv_ps(a, b, (__m256)_mm256_slli_epi32((__m256i)index.v[i], 28));
  }
  return r;
#else
  int32_t t[16];
  float f[16];
  store_i(t, index);
  for (int i = 0; i < 16; ++i) f[i] = table[t[i] & 15];
  return load(f);
#endif
}

// ---------------------------------------------------------------- transposition

// 16 rows of 16 dwords -> 16 columns: out[j] lane i = in[i] lane j.
MLX_INLINE void transpose16(const I in[16], I out[16]) {
#if defined(MLX_LM_ISA_avx512)
  __m512i a[16], b[16];
  _Pragma("GCC unroll 16") for (int i = 0; i < 8; ++i) {
    a[2 * i] = _mm512_unpacklo_epi32((__m512i)in[2 * i].v[0], (__m512i)in[2 * i + 1].v[0]);
    a[2 * i + 1] = _mm512_unpackhi_epi32((__m512i)in[2 * i].v[0], (__m512i)in[2 * i + 1].v[0]);
  }
  _Pragma("GCC unroll 16") for (int i = 0; i < 4; ++i) {
    b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
    b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
  }
  _Pragma("GCC unroll 16") for (int j = 0; j < 4; ++j) {
    __m512i p = _mm512_shuffle_i32x4(b[j], b[4 + j], 0x88), q = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0x88);
    __m512i r = _mm512_shuffle_i32x4(b[j], b[4 + j], 0xdd), s = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0xdd);
    out[j].v[0] = (ni)_mm512_shuffle_i32x4(p, q, 0x88);
    out[8 + j].v[0] = (ni)_mm512_shuffle_i32x4(p, q, 0xdd);
    out[4 + j].v[0] = (ni)_mm512_shuffle_i32x4(r, s, 0x88);
    out[12 + j].v[0] = (ni)_mm512_shuffle_i32x4(r, s, 0xdd);
  }
#else
  // 4x4 blocks; the compiler keeps these in registers
  alignas(64) int32_t t[16][16];
  typedef int32_t q4 __attribute__((vector_size(16)));
  _Pragma("GCC unroll 4") for (int bi = 0; bi < 4; ++bi) {
    _Pragma("GCC unroll 4") for (int bj = 0; bj < 4; ++bj) {
      q4 r[4];
      _Pragma("GCC unroll 4") for (int i = 0; i < 4; ++i)
        __builtin_memcpy(&r[i], (const char*)&in[4 * bi + i] + 16 * bj, 16);
      q4 l0 = __builtin_shuffle(r[0], r[1], q4{0, 4, 1, 5}), h0 = __builtin_shuffle(r[0], r[1], q4{2, 6, 3, 7});
      q4 l1 = __builtin_shuffle(r[2], r[3], q4{0, 4, 1, 5}), h1 = __builtin_shuffle(r[2], r[3], q4{2, 6, 3, 7});
      q4 c[4] = {__builtin_shuffle(l0, l1, q4{0, 1, 4, 5}), __builtin_shuffle(l0, l1, q4{2, 3, 6, 7}),
                 __builtin_shuffle(h0, h1, q4{0, 1, 4, 5}), __builtin_shuffle(h0, h1, q4{2, 3, 6, 7})};
      _Pragma("GCC unroll 4") for (int j = 0; j < 4; ++j) __builtin_memcpy(&t[4 * bj + j][4 * bi], &c[j], 16);
    }
  }
  for (int j = 0; j < 16; ++j) out[j] = load_i(t[j]);
#endif
}

}  // namespace mlx_lm::MLX_LM_ISA

#include "simd_half.h"
