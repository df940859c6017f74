// Drivers of the matrix product kernels: preparing rows, walking panels and blocks of inputs, writing y.
#include "linear.h"

#include "linear_formats.h"
#include "linear_kernels.h"

namespace mlx_lm::MLX_LM_ISA {
namespace {

constexpr int few_inputs = 1024;    // inputs per pass of a few rows, at most
constexpr int few_words = 2048;     // dwords of scratch per panel of plain layout: 8 KB, so that 4 panels stay in L1
constexpr int few_groups = few_inputs / 16;
constexpr int float_inputs = 128;   // inputs per unpacked tile: 16 KB of floats for two panels
constexpr int byte_inputs = 512;    // 16 KB of bytes for two panels
constexpr int pass_rows = 240;      // rows per pass over the panels' inputs (multiple of every block)

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

void prepare(const Matrix& m, const Rows& rows, const void* x, Float type, int64_t ldx, const int32_t* index,
             int64_t begin, int64_t end) {
  const int64_t units = rows.k / rows.unit;
  while (begin < end) {
    int64_t row = begin / units, u = begin % units;
    int64_t stop = (row + 1) * units < end ? units : end - row * units;
    int64_t source = index != nullptr ? index[row] : row;
    prepare_row(m, rows, (const char*)x + source * ldx * float_bytes(type), type, row, u, stop);
    begin = row * units + stop;
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

template <int P, int R>
void run_few(const Matrix& m, Activation kind, const Tile& tile) {
  if (kind == Activation::bf16) {
    return few_bf16<P, R>(tile);
  }
  with_format(m, [&](auto f) {
    using Fmt = decltype(f);
    if constexpr (Fmt::biased) {
      if (kind == Activation::int8) {
        return few_int8<Fmt, P, R>(tile);
      }
    }
    few_exact<Fmt, P, R>(tile);
  });
}

template <int P, int R>
void few_panel(const Matrix& m, const Rows& rows, void* y, Float type, int64_t ldy, int64_t panel) {
  alignas(64) uint32_t words[P * few_words];
  alignas(64) float s[P * few_groups * 16], b[P * few_groups * 16];
  alignas(64) float acc[R * P * 16] = {};
  const bool dense = m.format == Format::dense;
  const int64_t bits = bits_per_code(m), most = few_words * 2 / bits;  // inputs per pass, a multiple of 128
  const int64_t step = most < few_inputs ? most / 128 * 128 : few_inputs;
  const int64_t item = rows.kind == Activation::exact ? 4 : (rows.kind == Activation::bf16 ? 2 : 1);
  Tile tile{};
  tile.s = s;
  tile.b = b;
  tile.group_stride = few_groups * 16;
  tile.acc = acc;
  tile.unit = rows.unit;
  tile.units_per_group = dense ? 1 : m.group / rows.unit;
  for (int64_t k0 = 0; k0 < rows.k; k0 += step) {
    int64_t kn = rows.k - k0 < step ? rows.k - k0 : step;
    tile.stride = m.interleaved ? m.k * bits / 2 : few_words;
    for (int p = 0; p < P; ++p) {
      const uint32_t* w = panel_words(m, panel + p, k0, kn, words + p * few_words);
      if (p == 0) {
        tile.w = w;
      }
    }
    if (!dense) {
      load_groups<P>(m, panel, k0 / m.group, kn / m.group, tile.group_stride, s, b);
    }
    tile.x = (const char*)rows.x + k0 * R * item;
    tile.sums = rows.sums + k0 / rows.unit * R;
    tile.scales = rows.scales + k0 / rows.unit * R;
    tile.units = kn / rows.unit;
    run_few<P, R>(m, rows.kind, tile);
  }
  for (int p = 0; p < P; ++p) {
    write(acc + 16 * p, 16 * P, R, m.n - 16 * (panel + p), y, type, ldy, 0, 16 * (panel + p));
  }
}

void multiply_few(const Matrix& m, const Rows& rows, void* y, Float type, int64_t ldy, int64_t begin, int64_t end) {
  with_count<few_rows>((int)rows.count, [&](auto r) {
    constexpr int R = decltype(r)::value;
    constexpr int P = few_panels<R>;
    int64_t panel = begin;
    if constexpr (P > 1) {
      for (; panel + P <= end; panel += P) few_panel<P, R>(m, rows, y, type, ldy, panel);
    }
    for (; panel < end; ++panel) few_panel<1, R>(m, rows, y, type, ldy, panel);
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

template <int P>
void multiply_many(const Matrix& m, const Rows& rows, void* y, Float type, int64_t ldy, int64_t panel) {
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
  tile.units_per_group = dense ? 1 : m.group / rows.unit;
  const int64_t blocks = row_blocks(rows), per_pass = pass_rows / rows.block;
  for (int64_t first = 0; first < blocks; first += per_pass) {
    int64_t now = blocks - first < per_pass ? blocks - first : per_pass;
    std::memset(acc, 0, sizeof(float) * 16 * P * (size_t)(now * rows.block));
    for (int64_t k0 = 0; k0 < rows.k; k0 += step) {
      int64_t kn = rows.k - k0 < step ? rows.k - k0 : step;
      for (int p = 0; p < P; ++p) {
        unpack(m, rows.kind, panel + p, k0, kn, w + p * tile_bytes);
      }
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
}

void multiply(const Matrix& m, const Rows& rows, void* y, Float type, int64_t ldy, int64_t begin, int64_t end) {
  if (rows.count <= 0) {
    return;
  }
  if (rows.count <= few_rows) {
    return multiply_few(m, rows, y, type, ldy, begin, end);
  }
  int64_t panel = begin;
  if constexpr (tile_panels == 2) {
    for (; panel + 2 <= end; panel += 2) multiply_many<2>(m, rows, y, type, ldy, panel);
  }
  for (; panel < end; ++panel) multiply_many<1>(m, rows, y, type, ldy, panel);
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
    q = m.format == Format::mxfp8 ? Fp8::value(words, 0) : Fp4::value(words, 0);
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
  tile.units_per_group = 1;
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
              few_exact<DenseF32, 1, R>(tile);
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
