// Drivers of the matrix product kernels: preparing rows, walking panels and blocks of inputs, writing y.
#include "linear.h"

#include "linear_formats.h"
#include "linear_kernels.h"

namespace mlx_lm::MLX_LM_ISA {
namespace {

constexpr int few_inputs = 1024;    // inputs per pass of a few rows, at most
constexpr int few_words = 4096;     // dwords of scratch for a panel of plain layout: 16 KB of L1
constexpr int few_groups = few_inputs / 16;
constexpr int float_inputs = 128;   // inputs per unpacked tile: 16 KB of floats for two panels
constexpr int byte_inputs = 512;    // 16 KB of bytes for two panels
constexpr int pass_rows = 120;      // rows per pass over the panels: their inputs stay in L2 or L3

int block_rows(Activation kind, int64_t count) {
  if (count <= few_rows) {
    return count < 1 ? 1 : (int)count;
  }
  return kind == Activation::int8 ? byte_block : float_block;
}

// ---------------------------------------------------------------- preparing rows

// Fixed order within a unit, whatever the row count.
template <int N>
MLX_INLINE float sum_of(const F* v) {
  F s = v[0];
  for (int i = 1; i < N; ++i) s = s + v[i];
  return reduce_add(s);
}

float unit_sum(const F* v, int64_t unit) {
  return unit == 64 ? sum_of<4>(v) : (unit == 32 ? sum_of<2>(v) : sum_of<1>(v));
}

// Quantizes one unit to [-127, 127]; NaN and infinities make the scale NaN, so that the output row is NaN.
void quantize_unit(const F* v, int64_t unit, int8_t* q, float* scale, float* sum) {
  int n = (int)(unit / 16);
  F top = zero(), bad = zero();
  for (int i = 0; i < n; ++i) {
    top = max(abs(v[i]), top);
    bad = fma(v[i], zero(), bad);
  }
  float amax = reduce_max(top);
  bool finite = reduce_add(bad) == 0.0f;
  if (!finite || amax < 1e-30f) {
    std::memset(q, 0, (size_t)unit);
    *scale = finite ? 0.0f : __builtin_nanf("");
    *sum = *scale;
    return;
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
  *scale = amax / 127.0f;
  *sum = *scale * reduce_add(to_float(total));  // exact: at most 64 * 127 per lane sum
}

// Units [begin, end) of one row.
void prepare_row(const Matrix& m, const Rows& rows, const void* x, Float type, int64_t row, int64_t begin,
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
      quantize_unit(v, unit, q, rows.scales + slot, rows.sums + slot);
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

// One unit of one block of several rows, with rows in lanes; the same numbers as prepare_row.
void prepare_block(const Matrix& m, const Rows& rows, const char* const x[16], int count, Float type, int64_t block,
                   int64_t u) {
  const int64_t unit = rows.unit, units = rows.k / unit, B = rows.block;
  F v[64];  // [input], lanes are rows
  for (int64_t i = 0; i < unit; i += 16) {
    int64_t at = u * unit + i, left = m.k - at;
    I in[16];
    for (int r = 0; r < 16; ++r) {
      in[r] = r >= count || left <= 0 ? zero_i()
                                      : as_int(left >= 16 ? load_any(x[r], type, at)
                                                          : load_any_first(x[r], type, at, (int)left));
    }
    transpose16(in, (I*)(v + i));
  }
  int64_t slot = (block * units + u) * B, element = (block * rows.k + u * unit) * B;
  // 16 lanes are stored where B belong: the next store repairs the rest, the last ones are cut
  auto put = [B](void* base, int64_t j, int64_t total, F value) {
    float* to = (float*)base + j * B;
    if ((total - j) * B >= 16) {
      store(to, value);
    } else {
      store_any_first(to, Float::f32, 0, value, (int)B);
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
      put(rows.sums + slot, 0, 1, s[0]);
      const float* by = input_scale(m.bits);
      for (int64_t i = 0; i < unit; ++i) v[i] = v[i] * set1(by[i % 32]);
    }
    for (int64_t i = 0; i < unit; ++i) put((float*)rows.x + element, i, unit, v[i]);
    return;
  }
  if (rows.kind == Activation::bf16) {
    for (int64_t i = 0; i < unit; i += 2) {
      put((char*)rows.x + 2 * element, i / 2, unit / 2, as_float(shr(bf16_bits(v[i]), 16) | bf16_bits(v[i + 1])));
    }
    return;
  }
  F top = zero(), bad = zero();
  for (int64_t i = 0; i < unit; ++i) {
    top = max(abs(v[i]), top);
    bad = fma(v[i], zero(), bad);
  }
  F scale = top / set1(127.0f), inverse = set1(127.0f) / top;
  MLX_EACH(i) {
    ni usable = (bad.v[i] == 0.0f) & (top.v[i] >= 1e-30f);
    inverse.v[i] = usable ? inverse.v[i] : nf{};
    scale.v[i] = usable ? scale.v[i] : (bad.v[i] == 0.0f ? nf{} : nf{} + __builtin_nanf(""));
    // a row that is not finite: 0 * NaN would round to an arbitrary integer
    for (int64_t j = 0; j < unit; ++j) v[j].v[i] = usable ? v[j].v[i] : nf{};
  }
  I total = zero_i(), q[64];
  for (int64_t i = 0; i < unit; ++i) {
    q[i] = round_int(v[i] * inverse);
    total = total + q[i];
  }
  put(rows.scales + slot, 0, 1, scale);
  put(rows.sums + slot, 0, 1, scale * to_float(total));
  const I low = set1_i(255);
  for (int64_t d = 0; d < unit / 4; ++d) {
    const I* from = q + d / 8 * 32;
    int e = (int)(d % 8);
    I packed = (from[byte_order(m.bits, e, 0)] & low) | shl(from[byte_order(m.bits, e, 1)] & low, 8) |
        shl(from[byte_order(m.bits, e, 2)] & low, 16) | shl(from[byte_order(m.bits, e, 3)], 24);
    put((char*)rows.x + element, d, unit / 4, as_float(packed));
  }
}

void prepare(const Matrix& m, const Rows& rows, const void* x, Float type, int64_t ldx, const int32_t* index,
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
    } else {
      prepare_block(m, rows, from, count, type, block, u);
    }
  }
}

// ---------------------------------------------------------------- writing y

void write(const float* acc, int64_t row_stride, int64_t count, int64_t columns, void* y, Float type, int64_t ldy,
           int64_t row, int64_t column) {
  for (int64_t i = 0; i < count; ++i) {
    F v = load(acc + i * row_stride);
    int64_t at = (row + i) * ldy + column;
    if (columns >= 16) {
      store_any(y, type, at, v);
    } else {
      store_any_first(y, type, at, v, (int)columns);
    }
  }
}

// ---------------------------------------------------------------- a few rows

// Scales and biases of groups [g0, g0 + gn) of P panels, `stride` floats apart.
template <int P>
void load_groups(const Matrix& m, int64_t panel, int64_t g0, int64_t gn, int64_t stride, float* s, float* b) {
  for (int p = 0; p < P; ++p) {
    panel_scales(m, m.scales, panel + p, g0, gn, s + p * stride);
    if (m.biases != nullptr) {
      panel_scales(m, m.biases, panel + p, g0, gn, b + p * stride);
    }
  }
}

template <int R>
void run_few(const Matrix& m, Activation kind, const Tile& tile) {
  if (kind == Activation::bf16) {
    return few_bf16<R>(tile);
  }
  with_format(m, [&](auto f) {
    using Fmt = decltype(f);
    if constexpr (Fmt::biased) {
      if (kind == Activation::int8) {
        return few_int8<Fmt, R>(tile);
      }
    }
    few_exact<Fmt, R>(tile);
  });
}

template <int R>
void few_panel(const Matrix& m, const Rows& rows, void* y, Float type, int64_t ldy, int64_t panel) {
  alignas(64) uint32_t words[few_words];
  alignas(64) float s[few_groups * 16], b[few_groups * 16];
  alignas(64) float acc[R * 16] = {};
  const bool dense = m.format == Format::dense;
  const int64_t bits = bits_per_code(m), most = few_words * 2 / bits;
  const int64_t step = most < few_inputs ? most / 128 * 128 : few_inputs;  // a whole number of groups
  const int64_t item = rows.kind == Activation::exact ? 4 : (rows.kind == Activation::bf16 ? 2 : 1);
  Tile tile{};
  tile.s = s;
  tile.b = b;
  tile.acc = acc;
  tile.unit = rows.unit;
  tile.group_shift = !dense && m.group > rows.unit ? 1 : 0;
  for (int64_t k0 = 0; k0 < rows.k; k0 += step) {
    int64_t kn = rows.k - k0 < step ? rows.k - k0 : step;
    tile.w = panel_words(m, panel, k0, kn, words);
    if (!dense) {
      load_groups<1>(m, panel, k0 / m.group, kn / m.group, 0, s, b);
    }
    tile.x = (const char*)rows.x + k0 * R * item;
    tile.sums = rows.sums + k0 / rows.unit * R;
    tile.scales = rows.scales + k0 / rows.unit * R;
    tile.units = kn / rows.unit;
    run_few<R>(m, rows.kind, tile);
  }
  write(acc, 16, R, m.n - 16 * panel, y, type, ldy, 0, 16 * panel);
}

void multiply_few(const Matrix& m, const Rows& rows, void* y, Float type, int64_t ldy, int64_t begin, int64_t end) {
  with_count<few_rows>((int)rows.count, [&](auto r) {
    for (int64_t panel = begin; panel < end; ++panel) few_panel<decltype(r)::value>(m, rows, y, type, ldy, panel);
  });
}

// ---------------------------------------------------------------- many rows

// All row blocks of one pass against one tile of unpacked words.
template <int P>
void sweep(const Matrix& m, const Rows& rows, Tile tile, int64_t k0, int64_t first_block, int64_t blocks, float* acc) {
  const int64_t units = rows.k / rows.unit;
  const int B = rows.block;
  for (int64_t i = 0; i < blocks; ++i) {
    int64_t block = first_block + i;
    int64_t left = rows.count - block * B;
    int count = left < B ? (int)left : B;
    int64_t item = rows.kind == Activation::exact ? 4 : (rows.kind == Activation::bf16 ? 2 : 1);
    int64_t slot = (block * units + k0 / rows.unit) * B;
    tile.x = (const char*)rows.x + (block * rows.k + k0) * B * item;
    tile.sums = rows.sums + slot;
    tile.scales = rows.scales + slot;
    tile.acc = acc + i * B * P * 16;
    if (rows.kind == Activation::int8) {
      with_count<byte_block>(count, [&](auto r) {
        constexpr int R = decltype(r)::value;
        m.bits < 8 ? block_int8<P, R, byte_block, true>(tile) : block_int8<P, R, byte_block, false>(tile);
      });
    } else {
      with_count<float_block>(count, [&](auto r) {
        constexpr int R = decltype(r)::value;
        if (rows.kind == Activation::bf16) {
          block_bf16<P, R, float_block>(tile);
        } else if (m.format == Format::affine) {
          block_exact<P, R, float_block, true, true>(tile);
        } else if (m.format == Format::dense) {
          block_exact<P, R, float_block, false, false>(tile);
        } else {
          block_exact<P, R, float_block, true, false>(tile);
        }
      });
    }
  }
}

// Unpacks inputs [k0, k0 + kn) of one panel for many rows.
void unpack(const Matrix& m, Activation kind, int64_t panel, int64_t k0, int64_t kn, void* to) {
  alignas(64) uint32_t words[byte_inputs * 16];
  if (kind == Activation::bf16) {
    const uint32_t* w = panel_words(m, panel, k0, kn, (uint32_t*)to);
    if (w != to) {
      std::memcpy(to, w, (size_t)kn * 32);
    }
    return;
  }
  const uint32_t* w = panel_words(m, panel, k0, kn, words);
  with_format(m, [&](auto f) {
    using Fmt = decltype(f);
    if constexpr (Fmt::biased) {
      if (kind == Activation::int8) {
        return unpack_bytes<Fmt>(w, kn, (uint32_t*)to);
      }
    }
    unpack_floats<Fmt>(w, kn, (float*)to);
  });
}

// P panels against row blocks [first, first + now).
template <int P>
void multiply_many(const Matrix& m, const Rows& rows, void* y, Float type, int64_t ldy, int64_t panel, int64_t first,
                   int64_t now) {
  constexpr int tile_bytes = float_inputs * 16 * 4;
  static_assert(tile_bytes >= byte_inputs * 16);
  constexpr int groups = byte_inputs / 16;
  alignas(64) char w[P * tile_bytes];
  alignas(64) float s[P * groups * 16], b[P * groups * 16];
  alignas(64) float acc[pass_rows * P * 16];
  const bool dense = m.format == Format::dense;
  // equal parts, each a whole number of groups
  const int64_t quantum = dense ? rows.unit : m.group;
  const int64_t most = rows.kind == Activation::int8 ? byte_inputs : (rows.kind == Activation::bf16 ? 256 : float_inputs);
  const int64_t passes = (rows.k + most - 1) / most;
  int64_t step = (rows.k / quantum + passes - 1) / passes * quantum;
  Tile tile{};
  tile.w = w;
  tile.s = s;
  tile.b = b;
  tile.group_stride = groups * 16;
  tile.unit = rows.unit;
  tile.group_shift = !dense && m.group > rows.unit ? 1 : 0;
  std::memset(acc, 0, sizeof(float) * 16 * P * (size_t)(now * rows.block));
  for (int64_t k0 = 0; k0 < rows.k; k0 += step) {
    int64_t kn = rows.k - k0 < step ? rows.k - k0 : step;
    for (int p = 0; p < P; ++p) unpack(m, rows.kind, panel + p, k0, kn, w + p * tile_bytes);
    if (!dense) {
      load_groups<P>(m, panel, k0 / m.group, kn / m.group, tile.group_stride, s, b);
    }
    tile.stride = tile_bytes / 4;
    tile.units = kn / rows.unit;
    sweep<P>(m, rows, tile, k0, first, now, acc);
  }
  int64_t row = first * rows.block;
  int64_t count = rows.count - row < now * rows.block ? rows.count - row : now * rows.block;
  for (int p = 0; p < P; ++p) {
    write(acc + 16 * p, 16 * P, count, m.n - 16 * (panel + p), y, type, ldy, row, 16 * (panel + p));
  }
}

void multiply(const Matrix& m, const Rows& rows, void* y, Float type, int64_t ldy, int64_t begin, int64_t end) {
  if (rows.count <= 0) {
    return;
  }
  if (rows.count <= few_rows) {
    return multiply_few(m, rows, y, type, ldy, begin, end);
  }
  const int64_t blocks = row_blocks(rows), per_pass = pass_rows / rows.block;
  for (int64_t first = 0; first < blocks; first += per_pass) {
    int64_t now = blocks - first < per_pass ? blocks - first : per_pass;
    int64_t panel = begin;
    if constexpr (tile_panels == 2) {
      for (; panel + 2 <= end; panel += 2) multiply_many<2>(m, rows, y, type, ldy, panel, first, now);
    }
    for (; panel < end; ++panel) multiply_many<1>(m, rows, y, type, ldy, panel, first, now);
  }
}

// ---------------------------------------------------------------- y = x @ w

// `count` <= 64 consecutive values of row `row` of w, from column `column` (a multiple of 64).
void dequantize(const Matrix& m, int64_t row, int64_t column, int count, float* to) {
  if (m.format == Format::dense) {
    for (int i = 0; i < count; i += 16) {
      int64_t at = row * m.k + column + i;
      store(to + i, count - i >= 16 ? load_any(m.w, m.type, at) : load_any_first(m.w, m.type, at, count - i));
    }
    return;
  }
  // lane-wise: 16 codes per vector from a byte buffer with slack for the last 32-bit read
  uint8_t raw[72] = {};
  const int64_t bits = m.bits, groups = m.k / m.group;
  std::memcpy(raw, (const char*)m.w + (row * m.k + column) * bits / 8, (size_t)((count * bits + 7) / 8));
  alignas(64) int32_t codes[64];
  for (int i = 0; i < count; ++i) {
    int64_t bit = i * bits;
    uint32_t field;
    std::memcpy(&field, raw + bit / 8, 4);
    codes[i] = (int32_t)((field >> (bit % 8)) & ((1u << bits) - 1));
  }
  alignas(64) uint32_t words[16];
  for (int i = 0; i < count; i += 16) {
    int64_t at = row * groups + (column + i) / m.group;
    F q, s;
    if (m.format == Format::affine) {
      q = to_float(load_i(codes + i));
      float scale, bias;
      if (m.type == Float::f32) {
        scale = ((const float*)m.scales)[at];
        bias = ((const float*)m.biases)[at];
      } else {
        uint16_t hs = ((const uint16_t*)m.scales)[at], hb = ((const uint16_t*)m.biases)[at];
        scale = m.type == Float::bf16 ? bf16_to_float(hs) : f16_to_float(hs);
        bias = m.type == Float::bf16 ? bf16_to_float(hb) : f16_to_float(hb);
      }
      store(to + i, fma(q, set1(scale), set1(bias)));
      continue;
    }
    I v = set1_i(((const uint8_t*)m.scales)[at]);
    s = m.format == Format::nvfp4 ? as_float(shl(v & set1_i(0x7f), 20)) * set1(0x1p120f) : e8m0(v);
    store_i(words, load_i(codes + i));
    I word;
    q = m.format == Format::mxfp8 ? Fp8::value(word, words, 0) : Fp4::value(word, words, 0);
    store(to + i, q * s);
  }
}

void multiply_plain(const Matrix& m, const Rows& rows, void* y, Float type, int64_t ldy, int64_t begin, int64_t end) {
  // w[k][n] tiles of 64 columns (4 panels) x 64 inputs; the row kernels are those of dense matrices
  alignas(64) float w[4][64 * 16];
  alignas(64) float acc[4][pass_rows * 16];
  alignas(64) float line[64];
  const Matrix d = dense_view(m);
  Tile tile{};
  tile.unit = rows.unit;
  const bool few = rows.count <= few_rows;
  const int64_t blocks = row_blocks(rows), per_pass = few ? 1 : pass_rows / rows.block;
  for (int64_t column = begin; column < end; column += 64) {
    int columns = end - column < 64 ? (int)(end - column) : 64;
    for (int64_t first = 0; first < blocks; first += per_pass) {
      int64_t now = blocks - first < per_pass ? blocks - first : per_pass;
      std::memset(acc, 0, sizeof(acc));
      for (int64_t k0 = 0; k0 < rows.k; k0 += 64) {
        for (int64_t k = 0; k < 64; ++k) {
          if (k0 + k < m.n) {
            dequantize(m, k0 + k, column, columns, line);
            for (int p = 0; p < 4; ++p) store(w[p] + 16 * k, load(line + 16 * p));
          } else {
            for (int p = 0; p < 4; ++p) store(w[p] + 16 * k, zero());
          }
        }
        for (int p = 0; 16 * p < columns; ++p) {
          if (few) {
            with_count<few_rows>((int)rows.count, [&](auto r) {
              constexpr int R = decltype(r)::value;
              tile.w = w[p];
              tile.x = (const float*)rows.x + k0 * R;
              tile.units = 1;
              tile.acc = acc[p];
              few_exact<DenseF32, R>(tile);
            });
          } else {
            tile.w = w[p];
            tile.units = 1;
            sweep<1>(d, rows, tile, k0, first, now, acc[p]);
          }
        }
      }
      int64_t row = first * rows.block;
      int64_t count = rows.count - row < now * rows.block ? rows.count - row : now * rows.block;
      for (int p = 0; 16 * p < columns; ++p) {
        write(acc[p], 16, count, columns - 16 * p, y, type, ldy, row, column + 16 * p);
      }
    }
  }
}

// ---------------------------------------------------------------- repacking

template <int item>
void interleave_items(const char* from, char* to, int64_t columns, bool undo, int64_t begin, int64_t end) {
  for (int64_t panel = begin; panel < end; ++panel) {
    int64_t base = panel * 16 * columns;
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t i = 0; i < 16; ++i) {
        int64_t plain = (base + i * columns + c) * item, mixed = (base + c * 16 + i) * item;
        std::memcpy(to + (undo ? plain : mixed), from + (undo ? mixed : plain), item);
      }
    }
  }
}

void interleave(const void* from, void* to, int64_t columns, int item, bool undo, int64_t begin, int64_t end) {
  if (item == 4) {
    interleave_items<4>((const char*)from, (char*)to, columns, undo, begin, end);
  } else if (item == 2) {
    interleave_items<2>((const char*)from, (char*)to, columns, undo, begin, end);
  } else {
    interleave_items<1>((const char*)from, (char*)to, columns, undo, begin, end);
  }
}

}  // namespace

extern const LinearKernels linear_kernels_table = {block_rows, prepare, multiply, multiply_plain, interleave};

}  // namespace mlx_lm::MLX_LM_ISA
