// Activations in the form that the kernels read: blocks of rows, element-major, as float, int8 or bf16 (linear.h).
//
// A row gets the same numbers alone (prepare_row) and in a block (prepare_block, rows in lanes): sums follow one
// order, and everything else is exact or a single rounding.
#pragma once

#include "linear_kernels.h"

namespace mlx_lm::MLX_LM_ISA {

inline int block_rows(Activation kind, int64_t count) {
  if (count <= few_rows) {
    return count < 1 ? 1 : (int)count;
  }
  return kind == Activation::int8 ? byte_block : float_block;
}

// Fixed order within a unit, whatever the row count.
template <int N>
MLX_INLINE float sum_of(const F* v) {
  F s = v[0];
  for (int i = 1; i < N; ++i) s = s + v[i];
  return reduce_add(s);
}

inline float unit_sum(const F* v, int64_t unit) {
  return unit == 64 ? sum_of<4>(v) : (unit == 32 ? sum_of<2>(v) : sum_of<1>(v));
}

// More than this many times the next input of its unit: kept as a float, so that the others keep their resolution.
// At 3 a tenth of the units of a language model have one and half of the error's power is gone (LOG.md).
constexpr float outlier_ratio = 3.0f;

struct QuantizedUnit {
  float scale;
  float sum;
  float outlier;
  int32_t place;
};

// Quantizes one unit to [-127, 127]; NaN and infinities make the scale NaN, so that the output row is NaN.
inline QuantizedUnit quantize_unit(F* v, int64_t unit, int8_t* q) {
  int n = (int)(unit / 16);
  F top = zero(), next = zero(), bad = zero();
  for (int i = 0; i < n; ++i) {
    F a = abs(v[i]);
    next = max(min(a, top), next);
    top = max(a, top);
    bad = fma(v[i], zero(), bad);
  }
  QuantizedUnit to{0.0f, 0.0f, 0.0f, -1};
  if (reduce_add(bad) != 0.0f) {
    std::memset(q, 0, (size_t)unit);
    to.scale = to.sum = __builtin_nanf("");
    return to;
  }
  alignas(64) float peaks[16];
  store(peaks, top);
  int lane = 0;
  for (int l = 1; l < 16; ++l) lane = peaks[l] > peaks[lane] ? l : lane;
  float amax = peaks[lane];
  peaks[lane] = 0.0f;
  float second = reduce_max(max(load(peaks), next));
  if (amax >= 1e-30f && amax > outlier_ratio * second) {
    alignas(64) float t[64];
    for (int i = 0; i < n; ++i) store(t + 16 * i, v[i]);
    to.place = lane;
    while (__builtin_fabsf(t[to.place]) != amax) to.place += 16;
    to.outlier = t[to.place];
    t[to.place] = 0.0f;
    for (int i = 0; i < n; ++i) v[i] = load(t + 16 * i);
    amax = second;
  }
  if (amax < 1e-30f) {
    std::memset(q, 0, (size_t)unit);
    to.sum = to.outlier;
    return to;
  }
  F inverse = set1(127.0f / amax);
  I total = zero_i();
  for (int i = 0; i < n; ++i) {
    I r = round_int(v[i] * inverse);
    total = total + r;
#if defined(MLX_LM_ISA_avx512)
    _mm_storeu_si128((__m128i*)(q + 16 * i), _mm512_cvtepi32_epi8((__m512i)r.v[0]));
#else
    int32_t t[16];
    store_i(t, r);
    for (int j = 0; j < 16; ++j) q[16 * i + j] = (int8_t)t[j];
#endif
  }
  to.scale = amax / 127.0f;
  // the sum of integers is exact: at most 64 * 127
  to.sum = to.scale * reduce_add(to_float(total)) + to.outlier;
  return to;
}

// Units [begin, end) of one row.
inline void prepare_row(const Matrix& m, const Rows& rows, const void* x, Float type, int64_t row, int64_t begin,
                 int64_t end) {
  int64_t block = row / rows.block, r = row % rows.block, unit = rows.unit, units = rows.k / unit;
  int64_t length = m.k;
  int n = (int)(unit / 16);
  for (int64_t u = begin; u < end; ++u) {
    F v[4];
    for (int i = 0; i < n; ++i) {
      int64_t at = u * unit + 16 * i, left = length - at;
      v[i] = left >= 16 ? load_any(x, type, at) : (left > 0 ? load_any_first(x, type, at, (int)left) : zero());
    }
    int64_t slot = (block * units + u) * rows.block + r;
    int64_t element = (block * rows.k + u * unit) * rows.block;
    if (rows.kind == Activation::exact) {
      if (m.format == Format::affine) {
        rows.sums[slot] = unit_sum(v, unit);
        const float* by = input_scale(m.bits);
        for (int i = 0; i < n; ++i) v[i] = v[i] * load(by + 16 * (i % 2));
      }
      float* to = (float*)rows.x + element + r;
      if (rows.block == 1) {
        for (int i = 0; i < n; ++i) store(to + 16 * i, v[i]);
      } else {
        alignas(64) float t[64];
        for (int i = 0; i < n; ++i) store(t + 16 * i, v[i]);
        for (int64_t i = 0; i < unit; ++i) to[i * rows.block] = t[i];
      }
    } else if (rows.kind == Activation::int8) {
      alignas(64) int8_t q[64];
      alignas(64) int8_t ordered[64];
      QuantizedUnit kept = quantize_unit(v, unit, q);
      rows.scales[slot] = kept.scale;
      rows.sums[slot] = kept.sum;
      rows.outliers[slot] = kept.outlier;
      rows.places[slot] = kept.place;
      for (int64_t c = 0; c < unit; c += 32) {
        if (m.bits == 4) {
          for (int d = 0; d < 8; d += 2)
            for (int b = 0; b < 4; ++b) {
              ordered[c + 4 * d + b] = q[c + 4 * d + 2 * b];
              ordered[c + 4 * d + 4 + b] = q[c + 4 * d + 2 * b + 1];
            }
        } else {
          for (int i = 0; i < 32; ++i) ordered[c + i] = q[c + byte_order(m.bits, i / 4, i % 4)];
        }
      }
      char* to = (char*)rows.x + element + 4 * r;
      for (int64_t d = 0; d < unit / 4; ++d) std::memcpy(to + 4 * d * rows.block, ordered + 4 * d, 4);
    } else {
      alignas(64) uint16_t t[64];
      for (int i = 0; i < n; ++i) store_bf16(t + 16 * i, v[i]);
      char* to = (char*)rows.x + 2 * element + 4 * r;
      for (int64_t d = 0; d < unit / 2; ++d) std::memcpy(to + 4 * d * rows.block, t + 2 * d, 4);
    }
  }
}

// Rounds to bfloat16 and keeps the bits in the high half.
MLX_INLINE I bf16_bits(F v) {
  I u = as_int(v);
  I rounded = u + set1_i(0x7fff) + (shr(u, 16) & set1_i(1));
  MLX_EACH(i) rounded.v[i] = v.v[i] == v.v[i] ? rounded.v[i] : (u.v[i] | 0x400000);
  return rounded & set1_i((int32_t)0xffff0000);
}

// Lanes 8 to 15, in lanes 0 to 7.
MLX_INLINE F upper_half(F v) {
#if defined(MLX_LM_ISA_avx512)
  v.v[0] = (nf)_mm512_shuffle_f32x4((__m512)v.v[0], (__m512)v.v[0], 0b11101110);
#endif
  return v;
}

// `U` units from u on of one block of several rows, with rows in lanes; the same numbers as prepare_row. Two units are
// side by side, which takes blocks of at most 8 rows and one register of 16 lanes.
template <int U>
inline void prepare_block(const Matrix& m, const Rows& rows, const char* const x[16], int count, Float type, int64_t block,
                   int64_t u) {
  static_assert(U == 1 || (U == 2 && native_lanes == 16));
  constexpr int lanes = 16 / U;
  const int64_t unit = rows.unit, units = rows.k / unit, B = rows.block;
  F v[64];  // [input], lanes are rows
  for (int64_t i = 0; i < unit; i += 16) {
    I in[16];
    for (int l = 0; l < 16; ++l) {
      const int r = l % lanes;
      int64_t at = (u + l / lanes) * unit + i, left = m.k - at;
      in[l] = r >= count || left <= 0 ? zero_i()
                                      : as_int(left >= 16 ? load_any(x[r], type, at)
                                                          : load_any_first(x[r], type, at, (int)left));
    }
    transpose16(in, (I*)(v + i));
  }
  int64_t slot = (block * units + u) * B, element = (block * rows.k + u * unit) * B;
  // 16 lanes are stored where B belong: the next store repairs the rest, the last ones are cut; `apart` values lie
  // between two units
  auto put = [B](void* base, int64_t j, int64_t total, int64_t apart, F value) {
    for (int h = 0; h < U; ++h) {
      float* to = (float*)base + h * apart * B + j * B;
      if ((total - j) * B >= 16) {
        store(to, h == 0 ? value : upper_half(value));
      } else {
        store_any_first(to, Float::f32, 0, h == 0 ? value : upper_half(value), (int)B);
      }
    }
  };
  if (rows.kind == Activation::exact) {
    if (m.format == Format::affine) {
      F s[16];
      for (int l = 0; l < 16; ++l) {
        s[l] = v[l];
        for (int64_t i = 16; i < unit; i += 16) s[l] = s[l] + v[i + l];
      }
      for (int half = 8; half >= 1; half /= 2)
        for (int l = 0; l < half; ++l) s[l] = s[l] + s[l + half];
      put(rows.sums + slot, 0, 1, 1, s[0]);
      const float* by = input_scale(m.bits);
      for (int64_t i = 0; i < unit; ++i) v[i] = v[i] * set1(by[i % 32]);
    }
    for (int64_t i = 0; i < unit; ++i) put((float*)rows.x + element, i, unit, unit, v[i]);
    return;
  }
  if (rows.kind == Activation::bf16) {
    for (int64_t i = 0; i < unit; i += 2) {
      put((char*)rows.x + 2 * element, i / 2, unit / 2, unit / 2,
          as_float(shr(bf16_bits(v[i]), 16) | bf16_bits(v[i + 1])));
    }
    return;
  }
  F top = zero(), next = zero(), bad = zero(), peak = zero();
  I place = zero_i();
  for (int64_t i = 0; i < unit; ++i) {
    F a = abs(v[i]);
    next = max(min(a, top), next);
    MLX_EACH(l) {
      ni larger = a.v[l] > top.v[l];
      place.v[l] = larger ? (ni{} + (int)i) : place.v[l];
      peak.v[l] = larger ? v[i].v[l] : peak.v[l];
    }
    top = max(a, top);
    bad = fma(v[i], zero(), bad);
  }
  I apart;  // all ones where the largest is an outlier
  MLX_EACH(i) {
    apart.v[i] = (bad.v[i] == 0.0f) & (top.v[i] >= 1e-30f) & (top.v[i] > next.v[i] * outlier_ratio);
    top.v[i] = apart.v[i] ? next.v[i] : top.v[i];
  }
  F scale = top / set1(127.0f), inverse = set1(127.0f) / top;
  F outlier = as_float(as_int(peak) & apart);
  MLX_EACH(i) {
    ni usable = (bad.v[i] == 0.0f) & (top.v[i] >= 1e-30f);
    inverse.v[i] = usable ? inverse.v[i] : nf{};
    scale.v[i] = usable ? scale.v[i] : (bad.v[i] == 0.0f ? nf{} : nf{} + __builtin_nanf(""));
    // a row that is not finite: 0 * NaN would round to an arbitrary integer
    for (int64_t j = 0; j < unit; ++j) {
      v[j].v[i] = usable & ~(apart.v[i] & (place.v[i] == (int)j)) ? v[j].v[i] : nf{};
    }
  }
  I total = zero_i(), q[64];
  for (int64_t i = 0; i < unit; ++i) {
    q[i] = round_int(v[i] * inverse);
    total = total + q[i];
  }
  put(rows.scales + slot, 0, 1, 1, scale);
  put(rows.sums + slot, 0, 1, 1, scale * to_float(total) + outlier);
  put(rows.outliers + slot, 0, 1, 1, outlier);
  put(rows.places + slot, 0, 1, 1, as_float(place | (apart ^ set1_i(-1))));
  const I low = set1_i(255);
  for (int64_t d = 0; d < unit / 4; ++d) {
    const I* from = q + d / 8 * 32;
    int e = (int)(d % 8);
    I packed = (from[byte_order(m.bits, e, 0)] & low) | shl(from[byte_order(m.bits, e, 1)] & low, 8) |
        shl(from[byte_order(m.bits, e, 2)] & low, 16) | shl(from[byte_order(m.bits, e, 3)], 24);
    put((char*)rows.x + element, d, unit / 4, unit / 4, as_float(packed));
  }
}

inline void prepare(const Matrix& m, const Rows& rows, const void* x, Float type, int64_t ldx, const int32_t* index,
             int64_t begin, int64_t end) {
  const int64_t units = rows.k / rows.unit, row_bytes = ldx * float_bytes(type);
  for (int64_t piece = begin; piece < end; ++piece) {
    int64_t block = piece / units, u = piece % units;
    const char* from[16];
    int count = 0;
    for (int64_t row = block * rows.block; row < (block + 1) * rows.block && row < rows.count; ++row) {
      from[count++] = (const char*)x + (index != nullptr ? index[row] : row) * row_bytes;
    }
    if (rows.block <= 4) {
      for (int r = 0; r < count; ++r) prepare_row(m, rows, from[r], type, block * rows.block + r, u, u + 1);
      continue;
    }
#if defined(MLX_LM_ISA_avx512)
    if (rows.block <= 8 && piece + 1 < end && u + 1 < units) {
      prepare_block<2>(m, rows, from, count, type, block, u);
      ++piece;
      continue;
    }
#endif
    prepare_block<1>(m, rows, from, count, type, block, u);
  }
}

}  // namespace mlx_lm::MLX_LM_ISA
