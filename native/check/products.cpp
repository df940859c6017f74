// Matrix products of every format, against double precision.
#include "check.h"
#include "linear.h"

namespace mlx_lm {

namespace {

double fp8(int code) {
  int exponent = code >> 3 & 15, mantissa = code & 7;
  double value = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return code & 128 ? -value : value;
}
double fp4(int code) {
  constexpr double table[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  return code & 8 ? -table[code & 7] : table[code & 7];
}

struct Weights {
  Matrix m{};
  std::vector<char> words, scales, biases, mixed, mixed_scales, mixed_biases;
  std::vector<double> wide;

  Weights(Format format, int bits, int group, Float type, int64_t n, int64_t k) {
    wide.resize(static_cast<size_t>(n * k));
    m = {nullptr, nullptr, nullptr, n, k, format, type, bits, group, false};
    if (format == Format::dense) {
      Stored w(normals(n * k), type);
      words = w.bytes;
      wide = w.values;
    } else {
      pack(n, k, format, bits, group, type);
    }
    place(words, scales, biases);
  }
  void place(std::vector<char>& w, std::vector<char>& s, std::vector<char>& b) {
    m.w = w.data();
    m.scales = s.empty() ? nullptr : s.data();
    m.biases = b.empty() ? nullptr : b.data();
  }
  void interleave() {
    mix(words, mixed, 4);  // 16-bit elements in pairs
    mix(scales, mixed_scales, m.format == Format::affine ? static_cast<int>(float_bytes(m.type)) : 1);
    mix(biases, mixed_biases, static_cast<int>(float_bytes(m.type)));
    place(mixed, mixed_scales, mixed_biases);
    m.interleaved = true;
  }

 private:
  void mix(const std::vector<char>& from, std::vector<char>& to, int item) const {
    to.resize(from.size());
    if (!from.empty()) {
      const int64_t columns = static_cast<int64_t>(from.size()) / item / m.n;
      linear_kernels().interleave(from.data(), to.data(), columns, item, false, 0, m.n / 16);
      std::vector<char> back(from.size());
      linear_kernels().interleave(to.data(), back.data(), columns, item, true, 0, m.n / 16);
      expect(back == from, "interleave undone");
    }
  }
  void pack(int64_t n, int64_t k, Format format, int bits, int group, Float type) {
    words.assign(static_cast<size_t>(n * k * bits / 8), 0);
    const int64_t groups = n * k / group;
    std::vector<double> scale(static_cast<size_t>(groups)), bias(static_cast<size_t>(groups), 0.0);
    if (format == Format::affine) {
      Stored s(normals(groups), type), b(normals(groups), type);
      scales = s.bytes;
      biases = b.bytes;
      scale = s.values;
      bias = b.values;
    } else {
      for (double& s : scale) {
        int code = format == Format::nvfp4 ? static_cast<int>(below(0x48)) : static_cast<int>(112 + below(8));
        scales.push_back(static_cast<char>(code));
        s = format == Format::nvfp4 ? fp8(code) : std::ldexp(1.0, code - 127);
      }
    }
    for (int64_t i = 0; i < n * k; ++i) {
      int code = static_cast<int>(below(int64_t{1} << bits));
      code = format == Format::mxfp8 && (code & 127) == 127 ? 0 : code;  // NaN
      for (int bit = 0; bit < bits; ++bit) {
        int64_t at = i * bits + bit;
        words[static_cast<size_t>(at / 8)] = static_cast<char>(words[static_cast<size_t>(at / 8)] | (code >> bit & 1) << (at % 8));
      }
      auto g = static_cast<size_t>(i / group);
      double q = format == Format::affine ? code : (format == Format::mxfp8 ? fp8(code) : fp4(code));
      wide[static_cast<size_t>(i)] = q * scale[g] + bias[g];
    }
  }
};

void product(Weights& w, int64_t count, Activation kind, Float y_type) {
  const Matrix& m = w.m;
  std::vector<float> x = normals(count * m.k);
  for (int64_t i = 0; i < count; ++i) {
    x[static_cast<size_t>(i * m.k + below(m.k))] *= 9;  // an outlier of int8 activations
  }
  Memory space(rows_bytes(m, kind, count));
  Rows rows = lay_out_rows(m, kind, count, space.data);
  linear_kernels().prepare(m, rows, x.data(), Float::f32, m.k, nullptr, 0, pieces_of(rows));
  Memory y(static_cast<size_t>(count * m.n * float_bytes(y_type)));
  const int64_t panels = panels_of(m), cut = panels / 2;
  linear_kernels().multiply(m, rows, y.data, y_type, m.n, 0, cut);
  linear_kernels().multiply(m, rows, y.data, y_type, m.n, cut, panels);
  std::vector<float> found(static_cast<size_t>(count * m.n));
  row_kernels().convert(y.data, y_type, count * m.n, found.data(), Float::f32);
  double tolerance = kind == Activation::exact ? 1e-6 : (kind == Activation::bf16 ? 6e-3 : 2e-2);
  tolerance += y_type == Float::f32 ? 0 : 8e-3;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j < m.n; ++j) {
      double sum = 0, size = 0;
      for (int64_t k = 0; k < m.k; ++k) {
        double term = static_cast<double>(x[static_cast<size_t>(i * m.k + k)]) * w.wide[static_cast<size_t>(j * m.k + k)];
        sum += term;
        size += std::abs(term);
      }
      double value = found[static_cast<size_t>(i * m.n + j)];
      expect(std::abs(value - sum) <= tolerance * std::max(size, 1e-3), "product", value, sum);
    }
  }
}

void product_back(const Weights& w, int64_t count) {
  const Matrix view = dense_view(w.m);
  std::vector<float> x = normals(count * view.k);
  Memory space(rows_bytes(view, Activation::exact, count));
  Rows rows = lay_out_rows(view, Activation::exact, count, space.data);
  linear_kernels().prepare(view, rows, x.data(), Float::f32, view.k, nullptr, 0, pieces_of(rows));
  std::vector<float> y(static_cast<size_t>(count * view.n));
  linear_kernels().multiply_plain(w.m, rows, y.data(), Float::f32, view.n, 0, view.n);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j < view.n; ++j) {
      double sum = 0, size = 1e-3;
      for (int64_t k = 0; k < view.k; ++k) {
        double term = static_cast<double>(x[static_cast<size_t>(i * view.k + k)]) * w.wide[static_cast<size_t>(k * view.n + j)];
        sum += term;
        size += std::abs(term);
      }
      near(y[static_cast<size_t>(i * view.n + j)] / size, sum / size, 1e-6, "product without transposition");
    }
  }
}

}  // namespace

void products(bool small) {
  struct Kind {
    Format format;
    int bits, group;
  };
  std::vector<Kind> kinds = {{Format::dense, 0, 0}, {Format::mxfp4, 4, 32}, {Format::mxfp8, 8, 32}, {Format::nvfp4, 4, 16}};
  for (int bits : {2, 3, 4, 5, 6, 8}) {
    for (int group : {32, 64, 128}) {
      kinds.push_back({Format::affine, bits, group});
    }
  }
  for (const Kind& kind : kinds) {
    for (Float type : {Float::f32, Float::bf16, Float::f16}) {
      for (int64_t count : small ? std::vector<int64_t>{1, 14} : std::vector<int64_t>{1, 2, 3, 5, 8, 9, 14, 40}) {
        Weights w(kind.format, kind.bits, kind.group, type, count % 2 == 0 ? 48 : 37, kind.format == Format::dense ? 150 : 256);
        for (bool fast : {false, true}) {
          product(w, count, activation_for(w.m, fast), fast ? Float::f32 : type);
        }
        product_back(w, count);
        if (w.m.n == 48 && w.m.k % 64 == 0) {
          w.interleave();
          product(w, count, Activation::exact, Float::f32);
          product(w, count, activation_for(w.m, true), Float::f32);
        }
      }
    }
  }
}

}  // namespace mlx_lm
