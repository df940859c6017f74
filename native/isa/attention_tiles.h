// What scores and weighted sums share: register tiles, moving tokens between memory and vectors, and which rows see
// which keys.
#pragma once

#include "attention.h"
#include "simd.h"

namespace mlx_lm::MLX_LM_ISA {
namespace {

// Register tiles: R query rows x V vectors of keys (scores) or C vectors of columns (values).
#if defined(MLX_LM_ISA_avx512)
constexpr int max_rows = 12;
constexpr int key_vectors = 2;
#elif defined(MLX_LM_ISA_avx2)
constexpr int max_rows = 5;
constexpr int key_vectors = 1;
#else
constexpr int max_rows = 3;
constexpr int key_vectors = 1;
#endif
constexpr int key_tile = 16 * key_vectors;
constexpr int plain_chunk = 512;  // keys per pass of `values`: probabilities and columns stay in L1 and L2
constexpr int packed_chunk = 64;

template <int R>
struct Rows_ {
  static constexpr int value = R;
};
template <int Max, class Body>
MLX_INLINE void with_rows(int r, Body&& body) {
  if constexpr (Max > 1) {
    if (r < Max) {
      return with_rows<Max - 1>(r, body);
    }
  }
  body(Rows_<Max>{});
}

template <int B>
struct Bits {
  static constexpr int bits = B;
};
template <class Body>
MLX_INLINE void with_bits(int bits, Body&& body) {
  switch (bits) {
    case 2:
      return body(Bits<2>{});
    case 3:
      return body(Bits<3>{});
    case 5:
      return body(Bits<5>{});
    case 6:
      return body(Bits<6>{});
    case 8:
      return body(Bits<8>{});
    default:
      return body(Bits<4>{});
  }
}

#if defined(MLX_LM_ISA_avx512)
// 4 dwords of 16 tokens, a token per lane. Loading tokens r, r+4, r+8 and r+12 into the quarters of one register leaves
// half of the shuffles of a transposition in registers.
MLX_INLINE void transpose_quad(const char* from, int64_t token_bytes, __m512i* to) {
  __m512i v[4];
  _Pragma("GCC unroll 4") for (int r = 0; r < 4; ++r) {
    const char* p = from + r * token_bytes;
    v[r] = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i*)p));
    v[r] = _mm512_mask_broadcast_i32x4(v[r], 0x00f0, _mm_loadu_si128((const __m128i*)(p + 4 * token_bytes)));
    v[r] = _mm512_mask_broadcast_i32x4(v[r], 0x0f00, _mm_loadu_si128((const __m128i*)(p + 8 * token_bytes)));
    v[r] = _mm512_mask_broadcast_i32x4(v[r], 0xf000, _mm_loadu_si128((const __m128i*)(p + 12 * token_bytes)));
  }
  __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpacklo_epi32(v[2], v[3]);
  __m512i c = _mm512_unpackhi_epi32(v[0], v[1]), d = _mm512_unpackhi_epi32(v[2], v[3]);
  to[0] = _mm512_unpacklo_epi64(a, b);
  to[1] = _mm512_unpackhi_epi64(a, b);
  to[2] = _mm512_unpacklo_epi64(c, d);
  to[3] = _mm512_unpackhi_epi64(c, d);
}

// 16 dwords of 16 tokens.
MLX_INLINE void transpose_block(const char* from, int64_t token_bytes, uint32_t* to) {
  _Pragma("GCC unroll 4") for (int j = 0; j < 4; ++j) {
    __m512i quad[4];
    transpose_quad(from + 16 * j, token_bytes, quad);
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; ++i) _mm512_storeu_si512(to + 64 * j + 16 * i, quad[i]);
  }
}
#endif

// Dwords [0, bytes/4) of up to 16 tokens, a token per lane; missing tokens are 0.
inline void transpose_tokens(const char* from, int64_t token_bytes, int64_t count, int64_t bytes, uint32_t* to) {
  for (int64_t at = 0; at < bytes; at += 64) {
    int64_t n = bytes - at < 64 ? bytes - at : 64;
    I in[16], out[16];
#if defined(MLX_LM_ISA_avx512)
    if (n == 64 && count == 16) {
      transpose_block(from + at, token_bytes, to + 4 * at);
      continue;
    }
#endif
    for (int i = 0; i < 16; ++i) {
      const char* p = from + i * token_bytes + at;
      if (i >= count) {
        in[i] = zero_i();
      } else if (n == 64) {
        in[i] = load_i(p);
      } else {
        alignas(64) char t[64] = {};
        std::memcpy(t, p, (size_t)n);
        in[i] = load_i(t);
      }
    }
    transpose16(in, out);
    for (int i = 0; i < (n + 3) / 4; ++i) store_i(to + 4 * at + 16 * i, out[i]);
  }
}

// The lower 16 bits of every lane as a half float.
MLX_INLINE F half_value(I v) {
#if defined(MLX_LM_ISA_avx512)
  F r;
  r.v[0] = (nf)_mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i)v.v[0]));
  return r;
#else
  // exponent and mantissa moved into place and rescaled; 31 is infinity or NaN
  I magnitude = v & set1_i(0x7fff);
  I bits = as_int(as_float(shl(magnitude, 13)) * set1(0x1p112f));
  MLX_EACH(i) bits.v[i] |= (magnitude.v[i] >= 0x7c00) & 0x7f800000;
  return as_float(bits | shl(v & set1_i(0x8000), 16));
#endif
}

// Code j of a chunk of 32, a token per lane.
template <int B>
MLX_INLINE F code_of(const uint32_t* w, int j) {
  const int word = j * B / 32, shift = j * B % 32;
  I v = load_i(w + 16 * word);
  if (shift != 0) {
    v = shr(v, shift);
  }
  if (shift + B > 32) {
    v = v | shl(load_i(w + 16 * (word + 1)), 32 - shift);
  }
  return to_float(v & set1_i((1 << B) - 1));
}

inline int64_t padded(int64_t dim) {
  return (dim + 31) / 32 * 32;
}

inline int64_t scratch_bytes(int64_t key_dim, int64_t value_dim) {
  // scores: words and floats of a key tile; values: a chunk of unpacked rows
  int64_t scores = (padded(key_dim) * 16 + padded(key_dim) * key_tile) * 4;
  int64_t values = packed_chunk * padded(value_dim) * 4;
  return (scores > values ? scores : values) + 64;
}

MLX_INLINE float scalar(const char* p, Float type, int64_t i) {
  if (type == Float::f32) {
    float f;
    std::memcpy(&f, p + 4 * i, 4);
    return f;
  }
  uint16_t h;
  std::memcpy(&h, p + 2 * i, 2);
  return type == Float::bf16 ? bf16_to_float(h) : f16_to_float(h);
}

// Scales (or biases) of group g of up to 16 tokens, one per lane.
MLX_INLINE F lane_scales(const char* base, int64_t token_bytes, Float type, int64_t count, int64_t g) {
  alignas(64) float t[16] = {};
  for (int i = 0; i < count; ++i) t[i] = scalar(base + i * token_bytes, type, g);
  return load(t);
}

template <Float T>
MLX_INLINE F load_as(const char* p) {
  if constexpr (T == Float::bf16) {
    return load_bf16((const uint16_t*)p);
  } else if constexpr (T == Float::f16) {
    return load_f16((const uint16_t*)p);
  } else {
    return load((const float*)p);
  }
}

// One block of rows over one chunk: the keys that all see together, the rest row by row, each row in key order.
// sum(from, to, row, rows) adds keys [from, to) for `rows` rows from `row` on. The common keys begin and end at multiples
// of `unit`, so that only a row's own first and last key part a unit.
template <int64_t unit = 1, class Sum>
MLX_INLINE void sum_block(int64_t k0, int64_t k1, const int64_t* first, const int64_t* last, int rows, Sum&& sum) {
  auto lower = [&](int r) { return first[r] > k0 ? first[r] : k0; };
  auto upper = [&](int r) { return last[r] < k1 ? last[r] : k1; };
  int64_t from = k0, to = k1;
  for (int r = 0; r < rows; ++r) {
    from = lower(r) > from ? lower(r) : from;
    to = upper(r) < to ? upper(r) : to;
  }
  from = (from + unit - 1) / unit * unit;
  to = to / unit * unit;
  if (to <= from) {
    for (int r = 0; r < rows; ++r) {
      if (lower(r) < upper(r)) {
        sum(lower(r), upper(r), r, 1);
      }
    }
    return;
  }
  for (int r = 0; r < rows; ++r) {
    if (lower(r) < from) {
      sum(lower(r), from, r, 1);
    }
  }
  sum(from, to, 0, rows);
  for (int r = 0; r < rows; ++r) {
    if (to < upper(r)) {
      sum(to, upper(r), r, 1);
    }
  }
}

// What all rows see, in chunks of keys (cut at multiples of `chunk`) and blocks of rows: body(row, rows, k0, k1, first, last), where row + r sees
// [first[r], last[r]) of the part that the chunk [k0, k1) belongs to.
template <class Body>
MLX_INLINE void each_part(const Visible* visible, int64_t rows, int64_t chunk, Body&& body) {
  int64_t low = visible[0].begin, high = 0, head = 0;
  for (int64_t r = 0; r < rows; ++r) {
    low = visible[r].begin < low ? visible[r].begin : low;
    high = visible[r].end > high ? visible[r].end : high;
    head = visible[r].head > head ? visible[r].head : head;
  }
  for (int part = 0; part < 2; ++part) {
    int64_t part_begin = part == 0 ? 0 : low, part_end = part == 0 ? head : high;
    for (int64_t k0 = part_begin, k1; k0 < part_end; k0 = k1) {
      k1 = k0 / chunk * chunk + chunk;
      k1 = k1 < part_end ? k1 : part_end;
      for (int64_t row = 0; row < rows; row += max_rows) {
        int n = (int)(rows - row < max_rows ? rows - row : max_rows);
        int64_t first[max_rows], last[max_rows];
        for (int r = 0; r < n; ++r) {
          first[r] = part == 0 ? 0 : visible[row + r].begin;
          last[r] = part == 0 ? visible[row + r].head : visible[row + r].end;
        }
        body(row, n, k0, k1, first, last);
      }
    }
  }
}

}  // namespace
}  // namespace mlx_lm::MLX_LM_ISA
