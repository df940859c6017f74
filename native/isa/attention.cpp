// Scores, softmax and weighted sums of one head group.
#include "attention.h"

#include "attention_sums.h"

namespace mlx_lm::MLX_LM_ISA {
namespace {

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

#if defined(MLX_LM_ISA_avx512)
// Scores of V x 16 whole keys for the R rows of a decode step, transposed in registers: a tile in memory pays off only
// when several blocks of rows read it. Same order of sums as score_tile.
template <int R, int V, Float T>
__attribute__((noinline)) void score_direct(const char* from, int64_t token_bytes, const float* q, int64_t dim,
                                            float* to, int64_t ld) {
  F a[R][V];
  _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r)
  _Pragma("GCC unroll 2") for (int v = 0; v < V; ++v) a[r][v] = zero();
  constexpr int per_word = T == Float::f32 ? 1 : 2;
  // reading 16 bytes of every token is no stream that the hardware would follow: fetch the next keys, line by line
  const char* next = from + 16 * V * token_bytes;
  for (int64_t d = 0; d < dim; d += 4 * per_word) {
    __m512i words[V][4];
    _Pragma("GCC unroll 8") for (int i = 0; i < 4 * V; ++i) __builtin_prefetch(next + 64 * i);
    next += 64 * 4 * V;
    _Pragma("GCC unroll 2") for (int v = 0; v < V; ++v) {
      transpose_quad(from + 16 * v * token_bytes + d * (4 / per_word), token_bytes, words[v]);
    }
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; ++i) {
      F k[V][2];
      _Pragma("GCC unroll 2") for (int v = 0; v < V; ++v) {
        I w;
        w.v[0] = (ni)words[v][i];
        if constexpr (T == Float::f32) {
          k[v][0] = as_float(w);
        } else if constexpr (T == Float::bf16) {
          k[v][0] = as_float(shl(w, 16));
          k[v][1] = as_float(w & set1_i((int32_t)0xffff0000));
        } else {
          k[v][0] = half_value(w);
          k[v][1] = half_value(shr(w, 16));
        }
      }
      _Pragma("GCC unroll 2") for (int j = 0; j < per_word; ++j) {
        _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r) {
          F x = set1(q[(i * per_word + j) * R + r]);
          _Pragma("GCC unroll 2") for (int v = 0; v < V; ++v) a[r][v] = fma(k[v][j], x, a[r][v]);
        }
      }
    }
    q += 4 * per_word * R;
  }
  _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r)
  _Pragma("GCC unroll 2") for (int v = 0; v < V; ++v) store(to + r * ld + 16 * v, a[r][v]);
}

constexpr int direct_rows = 8;

// As many whole vectors of keys from `begin` on as there are; where the rest begins.
template <Float T>
int64_t scores_direct(const TokenRows& keys, const float* q, int64_t rows, int64_t dim, int64_t begin, int64_t end,
                      float* to, int64_t ld) {
  with_rows<direct_rows>((int)rows, [&](auto r) {
    constexpr int R = decltype(r)::value;
    constexpr int V = R <= 6 ? 2 : 1;
    for (; begin + 16 * V <= end; begin += 16 * V) {
      score_direct<R, V, T>(keys.data + begin * keys.token_bytes, keys.token_bytes, q, dim, to + begin, ld);
    }
  });
  return begin;
}
#endif

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
#if defined(MLX_LM_ISA_avx512)
  if (rows <= direct_rows && keys.bits == 0 && dim % 8 == 0) {
    if (keys.type == Float::f32) {
      begin = scores_direct<Float::f32>(keys, q, rows, dim, begin, end, to, ld);
    } else if (keys.type == Float::bf16) {
      begin = scores_direct<Float::bf16>(keys, q, rows, dim, begin, end, to, ld);
    } else {
      begin = scores_direct<Float::f16>(keys, q, rows, dim, begin, end, to, ld);
    }
  }
#endif
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

}  // namespace

extern const AttentionKernels attention_kernels_table = {
    key_tile, pack_rows, scratch_bytes, scores, softmax, values, divide, scale};

}  // namespace mlx_lm::MLX_LM_ISA
