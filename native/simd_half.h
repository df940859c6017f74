// bfloat16 and float16 for simd.h, which includes this file: conversion, and loads and stores of any float type.
#pragma once

#include "simd.h"

namespace mlx_lm::MLX_LM_ISA {

MLX_INLINE float bf16_to_float(uint16_t h) {
  uint32_t u = (uint32_t)h << 16;
  float f;
  __builtin_memcpy(&f, &u, 4);
  return f;
}
// Round to nearest even; NaN stays NaN.
MLX_INLINE uint16_t float_to_bf16(float f) {
  uint32_t u;
  __builtin_memcpy(&u, &f, 4);
  if ((u & 0x7fffffff) > 0x7f800000) {
    return (uint16_t)((u >> 16) | 0x40);
  }
  return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
MLX_INLINE float f16_to_float(uint16_t h) {
#if defined(__F16C__)
  return _cvtsh_ss(h);
#elif defined(__aarch64__)
  __fp16 x;
  __builtin_memcpy(&x, &h, 2);
  return (float)x;
#else
  // exponent and mantissa moved into place, rescaled by 2^112; infinity and NaN repaired
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, bits = (uint32_t)(h & 0x7fff) << 13;
  float f;
  __builtin_memcpy(&f, &bits, 4);
  f *= 0x1p112f;
  __builtin_memcpy(&bits, &f, 4);
  if ((h & 0x7c00) == 0x7c00) {
    bits = 0x7f800000 | ((uint32_t)(h & 0x3ff) << 13);
  }
  bits |= sign;
  __builtin_memcpy(&f, &bits, 4);
  return f;
#endif
}
MLX_INLINE uint16_t float_to_f16(float f) {
#if defined(__F16C__)
  return _cvtss_sh(f, 0);
#elif defined(__aarch64__)
  __fp16 x = (__fp16)f;
  uint16_t h;
  __builtin_memcpy(&h, &x, 2);
  return h;
#else
  uint32_t u;
  __builtin_memcpy(&u, &f, 4);
  uint16_t sign = (uint16_t)((u >> 16) & 0x8000);
  u &= 0x7fffffff;
  if (u > 0x7f800000) {
    return sign | 0x7e00;
  }
  if (u >= 0x477ff000) {  // rounds to 65536 or more
    return sign | 0x7c00;
  }
  if (u < 0x38800000) {  // subnormal: adding 0.5 aligns the mantissa and rounds it to even
    float a;
    __builtin_memcpy(&a, &u, 4);
    a += 0.5f;
    __builtin_memcpy(&u, &a, 4);
    return sign | (uint16_t)(u - 0x3f000000);
  }
  u += 0xfff + ((u >> 13) & 1);
  return sign | (uint16_t)((u - 0x38000000) >> 13);
#endif
}
MLX_INLINE F load_bf16(const uint16_t* p) {
  F r;
#if defined(MLX_LM_ISA_avx512)
  r.v[0] = (nf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
#elif defined(MLX_LM_ISA_avx2)
  MLX_EACH(i) r.v[i] = (nf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(p + 8 * i))), 16);
#else
  float t[16];
  for (int i = 0; i < 16; ++i) t[i] = bf16_to_float(p[i]);
  r = load(t);
#endif
  return r;
}
MLX_INLINE F load_f16(const uint16_t* p) {
  F r;
#if defined(MLX_LM_ISA_avx512)
  r.v[0] = (nf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(MLX_LM_ISA_avx2)
  MLX_EACH(i) r.v[i] = (nf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8 * i)));
#else
  float t[16];
  for (int i = 0; i < 16; ++i) t[i] = f16_to_float(p[i]);
  r = load(t);
#endif
  return r;
}
MLX_INLINE void store_bf16(uint16_t* p, F a) {
#if defined(MLX_LM_ISA_avx512)
  // written out, not vcvtneps2bf16: that instruction flushes denormals
  __m512i u = (__m512i)a.v[0];
  __m512i lsb = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(lsb, _mm512_set1_epi32(0x7fff))), 16);
  __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
  __mmask16 nan = _mm512_cmp_ps_mask((__m512)a.v[0], (__m512)a.v[0], _CMP_UNORD_Q);
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet)));
#else
  float t[16];
  store(t, a);
  for (int i = 0; i < 16; ++i) p[i] = float_to_bf16(t[i]);
#endif
}
MLX_INLINE void store_f16(uint16_t* p, F a) {
#if defined(MLX_LM_ISA_avx512)
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)a.v[0], 0));
#elif defined(MLX_LM_ISA_avx2)
  MLX_EACH(i) _mm_storeu_si128((__m128i*)(p + 8 * i), _mm256_cvtps_ph((__m256)a.v[i], 0));
#else
  float t[16];
  store(t, a);
  for (int i = 0; i < 16; ++i) p[i] = float_to_f16(t[i]);
#endif
}

// Sixteen elements at index i of an array of any float type, as float.
MLX_INLINE F load_any(const void* p, Float type, int64_t i) {
  switch (type) {
    case Float::bf16:
      return load_bf16((const uint16_t*)p + i);
    case Float::f16:
      return load_f16((const uint16_t*)p + i);
    default:
      return load((const float*)p + i);
  }
}
MLX_INLINE void store_any(void* p, Float type, int64_t i, F a) {
  switch (type) {
    case Float::bf16:
      store_bf16((uint16_t*)p + i, a);
      break;
    case Float::f16:
      store_f16((uint16_t*)p + i, a);
      break;
    default:
      store((float*)p + i, a);
  }
}
// The first n < 16 elements; the rest of the lanes are 0 and their memory is not touched.
MLX_INLINE F load_any_first(const void* p, Float type, int64_t i, int n) {
  alignas(64) float t[16] = {};
  if (type == Float::f32) {
    std::memcpy(t, (const float*)p + i, 4 * (size_t)n);
    return load(t);
  }
  uint16_t h[16] = {};
  std::memcpy(h, (const uint16_t*)p + i, 2 * (size_t)n);
  return type == Float::bf16 ? load_bf16(h) : load_f16(h);
}
MLX_INLINE void store_any_first(void* p, Float type, int64_t i, F a, int n) {
  if (type == Float::f32) {
    float t[16];
    store(t, a);
    std::memcpy((float*)p + i, t, 4 * (size_t)n);
    return;
  }
  uint16_t h[16];
  if (type == Float::bf16) {
    store_bf16(h, a);
  } else {
    store_f16(h, a);
  }
  std::memcpy((uint16_t*)p + i, h, 2 * (size_t)n);
}

}  // namespace mlx_lm::MLX_LM_ISA
