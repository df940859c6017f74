// Scores, softmax and weighted sums of one head group.
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
// 16 dwords of 16 tokens. Loading tokens r, r+4, r+8 and r+12 into the quarters of one register leaves half of the
// shuffles of a transposition in registers.
MLX_INLINE void transpose_block(const char* from, int64_t token_bytes, uint32_t* to) {
  _Pragma("GCC unroll 4") for (int j = 0; j < 4; ++j) {
    __m512i v[4];
    _Pragma("GCC unroll 4") for (int r = 0; r < 4; ++r) {
      const char* p = from + r * token_bytes + 16 * j;
      v[r] = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i*)p));
      v[r] = _mm512_mask_broadcast_i32x4(v[r], 0x00f0, _mm_loadu_si128((const __m128i*)(p + 4 * token_bytes)));
      v[r] = _mm512_mask_broadcast_i32x4(v[r], 0x0f00, _mm_loadu_si128((const __m128i*)(p + 8 * token_bytes)));
      v[r] = _mm512_mask_broadcast_i32x4(v[r], 0xf000, _mm_loadu_si128((const __m128i*)(p + 12 * token_bytes)));
    }
    __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpacklo_epi32(v[2], v[3]);
    __m512i c = _mm512_unpackhi_epi32(v[0], v[1]), d = _mm512_unpackhi_epi32(v[2], v[3]);
    _mm512_storeu_si512(to + 64 * j, _mm512_unpacklo_epi64(a, b));
    _mm512_storeu_si512(to + 64 * j + 16, _mm512_unpackhi_epi64(a, b));
    _mm512_storeu_si512(to + 64 * j + 32, _mm512_unpacklo_epi64(c, d));
    _mm512_storeu_si512(to + 64 * j + 48, _mm512_unpackhi_epi64(c, d));
  }
}
#endif

// Dwords [0, bytes/4) of up to 16 tokens, a token per lane; missing tokens are 0.
void transpose_tokens(const char* from, int64_t token_bytes, int64_t count, int64_t bytes, uint32_t* to) {
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

int64_t padded(int64_t dim) {
  return (dim + 31) / 32 * 32;
}

int64_t scratch_bytes(int64_t key_dim, int64_t value_dim) {
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

// ---------------------------------------------------------------- scores

// AVX-512 converts 16-bit keys when it multiplies them; the others once for all queries.
#if defined(MLX_LM_ISA_avx512)
constexpr bool half_tiles = true;
#else
constexpr bool half_tiles = false;
#endif

// Keys [k, k + count) as [dim][16] elements, a token per lane; missing tokens are 0.
void load_keys(const TokenRows& keys, int64_t dim, int64_t k, int64_t count, uint32_t* words, float* to) {
  const char* from = keys.data + k * keys.token_bytes;
  if (keys.bits > 0) {
    transpose_tokens(from, keys.token_bytes, count, dim * keys.bits / 8, words);
    const char* s = keys.scales + k * keys.scale_token_bytes;
    const char* b = keys.biases + k * keys.scale_token_bytes;
    with_bits(keys.bits, [&](auto f) {
      constexpr int B = decltype(f)::bits;
      for (int64_t c = 0; c < dim; c += 32) {
        F scale = lane_scales(s, keys.scale_token_bytes, keys.type, count, c / keys.group);
        F bias = lane_scales(b, keys.scale_token_bytes, keys.type, count, c / keys.group);
        const uint32_t* w = words + c / 32 * 16 * B;
        _Pragma("GCC unroll 32") for (int j = 0; j < 32; ++j)
            store(to + 16 * (c + j), fma(code_of<B>(w, j), scale, bias));
      }
    });
    return;
  }
  if (keys.type == Float::f32) {
    transpose_tokens(from, keys.token_bytes, count, dim * 4, (uint32_t*)to);
    return;
  }
  transpose_tokens(from, keys.token_bytes, count, dim * 2, words);
#if defined(MLX_LM_ISA_avx512)
  // pairs of features apart: 16 tokens of the even one, then of the odd one
  alignas(64) static constexpr uint16_t order[32] = {0, 2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                                     1, 3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
  const __m512i index = _mm512_load_si512(order);
  for (int64_t d = 0; d < dim; d += 2) {
    _mm512_storeu_si512((uint16_t*)to + 16 * d, _mm512_permutexvar_epi16(index, _mm512_loadu_si512(words + 8 * d)));
  }
  return;
#endif
  for (int64_t d = 0; d < dim; d += 2) {
    I pair = load_i(words + 8 * d);
    bool brain = keys.type == Float::bf16;
    store(to + 16 * d, brain ? as_float(shl(pair, 16)) : half_value(pair));
    if (d + 1 < dim) {
      store(to + 16 * d + 16, brain ? as_float(pair & set1_i((int32_t)0xffff0000)) : half_value(shr(pair, 16)));
    }
  }
}

template <int R, Float T>
__attribute__((noinline)) void score_tile(const char* keys, const float* q, int64_t dim, float* to, int64_t ld) {
  constexpr int V = key_vectors;
  constexpr int64_t item = T == Float::f32 ? 4 : 2;
  const int64_t panel = padded(dim) * 16 * item;
  F a[R][V];
  _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r)
  _Pragma("GCC unroll 2") for (int v = 0; v < V; ++v) a[r][v] = zero();
  for (int64_t d = 0; d < dim; ++d) {
    F k[V];
    _Pragma("GCC unroll 2") for (int v = 0; v < V; ++v) k[v] = load_as<T>(keys + v * panel + 16 * item * d);
    _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r) {
      F x = set1(q[d * R + r]);
      _Pragma("GCC unroll 2") for (int v = 0; v < V; ++v) a[r][v] = fma(k[v], x, a[r][v]);
    }
  }
  _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r)
  _Pragma("GCC unroll 2") for (int v = 0; v < V; ++v) store(to + r * ld + 16 * v, a[r][v]);
}

void pack_rows(const float* q, int64_t rows, int64_t dim, float* to) {
  for (int64_t first = 0; first < rows; first += max_rows) {
    int64_t n = rows - first < max_rows ? rows - first : max_rows;
    float* block = to + first * dim;
    for (int64_t r = 0; r < n; ++r)
      for (int64_t d = 0; d < dim; ++d) block[d * n + r] = q[(first + r) * dim + d];
  }
}

void scores(const TokenRows& keys, const float* q, int64_t rows, int64_t dim, int64_t begin, int64_t end, float* to,
            int64_t ld, char* scratch) {
  scratch = (char*)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
  const bool halves = half_tiles && keys.bits == 0 && keys.type != Float::f32;
  const int64_t panel = padded(dim) * 16 * (halves ? 2 : 4);
  char* tile = scratch;
  uint32_t* words = (uint32_t*)(tile + padded(dim) * key_tile * 4);
  for (int64_t k = begin; k < end; k += key_tile) {
    for (int v = 0; v < key_vectors; ++v) {
      int64_t at = k + 16 * v, count = end - at < 16 ? end - at : 16;
      if (count > 0) {
        load_keys(keys, dim, at, count, words, (float*)(tile + v * panel));
      } else {
        std::memset(tile + v * panel, 0, (size_t)panel);
      }
    }
    for (int64_t first = 0; first < rows; first += max_rows) {
      int64_t n = rows - first < max_rows ? rows - first : max_rows;
      with_rows<max_rows>((int)n, [&](auto r) {
        constexpr int R = decltype(r)::value;
        const float* rows_q = q + first * dim;
        float* rows_to = to + first * ld + k;
        if constexpr (half_tiles) {
          if (halves) {
            return keys.type == Float::f16 ? score_tile<R, Float::f16>(tile, rows_q, dim, rows_to, ld)
                                           : score_tile<R, Float::bf16>(tile, rows_q, dim, rows_to, ld);
          }
        }
        score_tile<R, Float::f32>(tile, rows_q, dim, rows_to, ld);
      });
    }
  }
}

// ---------------------------------------------------------------- softmax

// exp of x <= 0: about 1 ulp, NaN stays NaN; below -87 it is 0 on AVX-512 and 1e-38 elsewhere.
MLX_INLINE F exp_down(F x) {
#if defined(MLX_LM_ISA_avx512)
  F c = max(set1(-150.0f), x);  // NaN passes: max gives its second argument
#else
  F c = max(set1(-87.0f), x);
#endif
  F n = to_float(round_int(c * set1(1.44269504f)));
  F r = fma(n, set1(-0.693359375f), c);
  r = fma(n, set1(2.12194440e-4f), r);
  F p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, r * r, r) + set1(1.0f);
#if defined(MLX_LM_ISA_avx512)
  p.v[0] = (nf)_mm512_scalef_ps((__m512)p.v[0], (__m512)n.v[0]);
  return p;
#else
  return p * as_float(shl(round_int(n) + set1_i(127), 23));
#endif
}

MLX_INLINE F cap(F s, float softcap) {
  // c * tanh(s / c) = c - 2c / (exp(2s/c) + 1)
  F c = set1(softcap);
  return c - (c + c) / (exp(s * set1(2.0f / softcap)) + set1(1.0f));
}

template <class Body>
MLX_INLINE void each_visible(Visible keys, Body&& body) {
  const int64_t from[2] = {0, keys.begin}, to[2] = {keys.head, keys.end};
  for (int part = 0; part < 2; ++part) {
    int64_t i = from[part];
    for (; i + 16 <= to[part]; i += 16) body(i, 16);
    if (i < to[part]) body(i, (int)(to[part] - i));
  }
}
MLX_INLINE F load_first(const float* p, int n) {
#if defined(MLX_LM_ISA_avx512)
  F r;
  r.v[0] = (nf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
  return r;
#else
  return load_any_first(p, Float::f32, 0, n);
#endif
}
MLX_INLINE void store_first(float* p, F v, int n) {
#if defined(MLX_LM_ISA_avx512)
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v.v[0]);
#else
  store_any_first(p, Float::f32, 0, v, n);
#endif
}

float softmax(const float* s, float* p, Visible keys, float softcap, const float* sink) {
  F top = set1(-__builtin_inff());
  if (softcap > 0) {
    each_visible(keys, [&](int64_t i, int n) {
      F v = cap(n == 16 ? load(s + i) : load_first(s + i, n), softcap);
      n == 16 ? store(p + i, v) : store_first(p + i, v, n);
    });
    s = p;
  }
  each_visible(keys, [&](int64_t i, int n) {
    if (n == 16) {
      top = max(load(s + i), top);
    } else {
      alignas(64) float t[16];
      for (int j = 0; j < 16; ++j) t[j] = s[i + (j < n ? j : 0)];
      top = max(load(t), top);
    }
  });
  float peak = reduce_max(top);
  if (sink != nullptr && *sink > peak) {
    peak = *sink;
  }
  const F m = set1(peak);
  F sum = zero();
  each_visible(keys, [&](int64_t i, int n) {
    if (n == 16) {
      F e = exp_down(load(s + i) - m);
      store(p + i, e);
      sum = sum + e;
    } else {
      F e = first_lanes(exp_down(load_first(s + i, n) - m), n);
      store_first(p + i, e, n);
      sum = sum + e;
    }
  });
  float total = reduce_add(sum);
  if (sink != nullptr) {
    F e = exp_down(set1(*sink) - m);
    float t[16];
    store(t, e);
    total += t[0];
  }
  return total;
}

// ---------------------------------------------------------------- weighted sums

// out[r][0..16C) += sum over keys [k0, k1) of p[r][k] * v[k], v at the first of the columns.
template <int R, int C, Float T>
__attribute__((noinline)) void sum_tile(const char* v, int64_t token_bytes, int64_t k0, int64_t k1, const float* p,
                                        int64_t ld, float* out, int64_t ldo) {
  constexpr int64_t item = T == Float::f32 ? 4 : 2;
  F a[R][C];
  _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r)
  _Pragma("GCC unroll 4") for (int c = 0; c < C; ++c) a[r][c] = load(out + r * ldo + 16 * c);
  v += k0 * token_bytes;
  for (int64_t k = k0; k < k1; ++k) {
    F x[C];
    _Pragma("GCC unroll 4") for (int c = 0; c < C; ++c) x[c] = load_as<T>(v + 16 * item * c);
    _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r) {
      F w = set1(p[r * ld + k]);
      _Pragma("GCC unroll 4") for (int c = 0; c < C; ++c) a[r][c] = fma(x[c], w, a[r][c]);
    }
    v += token_bytes;
  }
  _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r)
  _Pragma("GCC unroll 4") for (int c = 0; c < C; ++c) store(out + r * ldo + 16 * c, a[r][c]);
}

// As sum_tile for fewer than 16 columns.
void sum_edge(const char* v, int64_t token_bytes, Float type, int columns, int64_t k0, int64_t k1, const float* p,
              float* out) {
  F a = load_any_first(out, Float::f32, 0, columns);
  for (int64_t k = k0; k < k1; ++k) a = fma(load_any_first(v + k * token_bytes, type, 0, columns), set1(p[k]), a);
  store_any_first(out, Float::f32, 0, a, columns);
}

struct Columns {
  const char* v;
  int64_t token_bytes;
  int64_t item;
  int64_t begin;
  int64_t end;
};

template <Float T>
void sum_rows(const Columns& s, int64_t k0, int64_t k1, const float* p, int64_t ld, int rows, float* out,
              int64_t ldo) {
  int64_t c = s.begin;
  constexpr int wide = native_lanes == 16 ? 4 : 2;
  if (rows <= (native_lanes == 16 ? 4 : 1)) {
    for (; c + 16 * wide <= s.end; c += 16 * wide) {
      with_rows<(native_lanes == 16 ? 4 : 1)>(rows, [&](auto r) {
        sum_tile<decltype(r)::value, wide, T>(s.v + c * s.item, s.token_bytes, k0, k1, p, ld, out + c, ldo);
      });
    }
  }
  for (; c + 16 * key_vectors <= s.end; c += 16 * key_vectors) {
    with_rows<max_rows>(rows, [&](auto r) {
      sum_tile<decltype(r)::value, key_vectors, T>(s.v + c * s.item, s.token_bytes, k0, k1, p, ld, out + c, ldo);
    });
  }
  for (; c + 16 <= s.end; c += 16) {
    with_rows<max_rows>(rows, [&](auto r) {
      sum_tile<decltype(r)::value, 1, T>(s.v + c * s.item, s.token_bytes, k0, k1, p, ld, out + c, ldo);
    });
  }
  if (c < s.end) {
    for (int r = 0; r < rows; ++r) {
      sum_edge(s.v + c * s.item, s.token_bytes, T, (int)(s.end - c), k0, k1, p + r * ld, out + r * ldo + c);
    }
  }
}

// One block of rows over one chunk: the keys that all see together, the rest row by row, each row in key order.
template <Float T>
void sum_block(const Columns& s, int64_t k0, int64_t k1, const int64_t* first, const int64_t* last, int rows,
               const float* p, int64_t ld, float* out, int64_t ldo) {
  auto lower = [&](int r) { return first[r] > k0 ? first[r] : k0; };
  auto upper = [&](int r) { return last[r] < k1 ? last[r] : k1; };
  int64_t from = k0, to = k1;
  for (int r = 0; r < rows; ++r) {
    from = lower(r) > from ? lower(r) : from;
    to = upper(r) < to ? upper(r) : to;
  }
  if (to <= from) {
    for (int r = 0; r < rows; ++r) {
      if (lower(r) < upper(r)) {
        sum_rows<T>(s, lower(r), upper(r), p + r * ld, ld, 1, out + r * ldo, ldo);
      }
    }
    return;
  }
  for (int r = 0; r < rows; ++r) {
    if (lower(r) < from) {
      sum_rows<T>(s, lower(r), from, p + r * ld, ld, 1, out + r * ldo, ldo);
    }
  }
  sum_rows<T>(s, from, to, p, ld, rows, out, ldo);
  for (int r = 0; r < rows; ++r) {
    if (to < upper(r)) {
      sum_rows<T>(s, to, upper(r), p + r * ld, ld, 1, out + r * ldo, ldo);
    }
  }
}

// Tokens [k0, k1), columns [begin, end) (multiples of 32) of packed values as floats, `ld` apart.
void unpack_values(const TokenRows& values, int64_t k0, int64_t k1, int64_t begin, int64_t end, float* to,
                   int64_t ld) {
  for (int64_t k = k0; k < k1; k += 16) {
    int64_t count = k1 - k < 16 ? k1 - k : 16;
    const char* from = values.data + k * values.token_bytes;
    const char* s = values.scales + k * values.scale_token_bytes;
    const char* b = values.biases + k * values.scale_token_bytes;
    for (int64_t c = begin; c < end; c += 32) {
      alignas(64) uint32_t words[16 * 16];
      transpose_tokens(from + c * values.bits / 8, values.token_bytes, count, 4 * values.bits, words);
      F scale = lane_scales(s, values.scale_token_bytes, values.type, count, c / values.group);
      F bias = lane_scales(b, values.scale_token_bytes, values.type, count, c / values.group);
      with_bits(values.bits, [&](auto f) {
        constexpr int B = decltype(f)::bits;
        I in[32], out[16];
        _Pragma("GCC unroll 32") for (int j = 0; j < 32; ++j) in[j] = as_int(fma(code_of<B>(words, j), scale, bias));
        for (int half = 0; half < 2; ++half) {
          transpose16(in + 16 * half, out);
          for (int i = 0; i < count; ++i) store(to + (k - k0 + i) * ld + c + 16 * half, as_float(out[i]));
        }
      });
    }
  }
}

void values(const TokenRows& values, const float* p, int64_t ld, const Visible* visible, int64_t rows, int64_t begin,
            int64_t end, float* out, int64_t ldo, char* scratch) {
  int64_t low = visible[0].begin, high = 0, head = 0;
  for (int64_t r = 0; r < rows; ++r) {
    low = visible[r].begin < low ? visible[r].begin : low;
    high = visible[r].end > high ? visible[r].end : high;
    head = visible[r].head > head ? visible[r].head : head;
  }
  scratch = (char*)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
  const int64_t chunk = values.bits > 0 ? packed_chunk : plain_chunk;
  const int64_t wide = padded(end);
  for (int part = 0; part < 2; ++part) {
    int64_t part_begin = part == 0 ? 0 : low, part_end = part == 0 ? head : high;
    for (int64_t k0 = part_begin; k0 < part_end; k0 += chunk) {
      int64_t k1 = part_end - k0 < chunk ? part_end : k0 + chunk;
      Columns s{values.data, values.token_bytes, values.type == Float::f32 ? 4 : 2, begin, end};
      if (values.bits > 0) {
        unpack_values(values, k0, k1, begin / 32 * 32, (end + 31) / 32 * 32, (float*)scratch, wide);
        s = {scratch - k0 * wide * 4, wide * 4, 4, begin, end};
      }
      for (int64_t row = 0; row < rows; row += max_rows) {
        int n = (int)(rows - row < max_rows ? rows - row : max_rows);
        int64_t first[max_rows], last[max_rows];
        for (int r = 0; r < n; ++r) {
          first[r] = part == 0 ? 0 : visible[row + r].begin;
          last[r] = part == 0 ? visible[row + r].head : visible[row + r].end;
        }
        const float* from = p + row * ld;
        float* to = out + row * ldo;
        if (values.bits > 0 || values.type == Float::f32) {
          sum_block<Float::f32>(s, k0, k1, first, last, n, from, ld, to, ldo);
        } else if (values.type == Float::bf16) {
          sum_block<Float::bf16>(s, k0, k1, first, last, n, from, ld, to, ldo);
        } else {
          sum_block<Float::f16>(s, k0, k1, first, last, n, from, ld, to, ldo);
        }
      }
    }
  }
}

void divide(const float* from, float divisor, int64_t n, void* to, Float type) {
  F d = set1(divisor);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store_any(to, type, i, load(from + i) / d);
  if (i < n) store_any_first(to, type, i, load_any_first(from, Float::f32, i, (int)(n - i)) / d, (int)(n - i));
}

void scale(const void* x, Float type, float factor, int64_t n, float* q) {
  F f = set1(factor);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(q + i, load_any(x, type, i) * f);
  if (i < n) store_any_first(q, Float::f32, i, load_any_first(x, type, i, (int)(n - i)) * f, (int)(n - i));
}

}  // namespace

extern const AttentionKernels attention_kernels_table = {
    key_tile, pack_rows, scratch_bytes, scores, softmax, values, divide, scale};

}  // namespace mlx_lm::MLX_LM_ISA
