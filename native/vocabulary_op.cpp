// MLX primitives over rows of log-probabilities: the smallest set of likely tokens that holds a given mass, the logarithm
// of a softmax, and draws. A row is one thread's work.
//
// All give None where the input is being traced: callers then use the plain expression.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>

#include "attention.h"
#include "bind.h"
#include "elementwise.h"
#include "primitive.h"
#include "stages.h"
#include "workspace.h"

namespace nb = nanobind;

namespace mlx_lm {

namespace {

constexpr int64_t buckets = 1 << 15;  // a float that is not negative by its upper 15 bits: spans of 0.8%

// One row as floats, and exp(x - max) of it.
struct Row {
  float *x, *e;
  float max;
  float sum;
};

constexpr size_t row_bytes(int64_t n) {
  return static_cast<size_t>((n + 31) / 16 * 16) * 8;
}

Row open(const char* from, Float type, int64_t n, char* space) {
  Row row{reinterpret_cast<float*>(space), nullptr, 0, 0};
  row.e = row.x + (n + 31) / 16 * 16;
  row_kernels().convert(from, type, n, row.x, Float::f32);
  row.max = row.x[row_kernels().argmax(row.x, Float::f32, n)];
  row.sum = attention_kernels().softmax(row.x, row.e, {0, 0, n}, 0.0f, nullptr);
  return row;
}

int bucket_of(float e) {
  uint32_t bits;
  std::memcpy(&bits, &e, 4);
  return static_cast<int>((bits & 0x7fffffff) >> 16);
}

// Keeps what stands before mass p in the order of values, larger first, equal ones by index; the rest becomes -inf.
// The order is found by buckets of e, from the largest on, and only the bucket where p is reached is sorted.
void keep_mass(Row row, int64_t n, double p, double* mass) {
  std::fill(mass, mass + buckets, 0.0);
  const double whole = std::exp(static_cast<double>(row.max));
  for (int64_t i = 0; i < n; ++i) {
    mass[bucket_of(row.e[i])] += static_cast<double>(row.e[i]);
  }
  double before = 0;
  int edge = static_cast<int>(buckets) - 1;
  while (edge >= 0 && (before + mass[edge]) * whole < p) {
    before += mass[edge--];
  }
  if (edge < 0) {
    return;
  }
  std::vector<std::pair<float, int64_t>> tied;
  for (int64_t i = 0; i < n; ++i) {
    if (bucket_of(row.e[i]) == edge) {
      tied.emplace_back(-row.x[i], i);
    }
  }
  std::sort(tied.begin(), tied.end());
  for (int64_t i = 0; i < n; ++i) {
    row.x[i] = bucket_of(row.e[i]) > edge ? row.x[i] : -std::numeric_limits<float>::infinity();
  }
  for (const auto& [negative, i] : tied) {
    if (before * whole >= p) {
      break;
    }
    row.x[i] = -negative;
    before += static_cast<double>(row.e[i]);
  }
}

class Vocabulary : public CpuPrimitive {
 public:
  // p: the mass to keep, or 0 for the logarithm of a softmax.
  Vocabulary(mx::Stream stream, double p) : CpuPrimitive(stream), p_(p) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::array& out = outputs[0];
    allocate(out);
    if (out.size() == 0) {
      return;
    }
    submit([x = Operand::of(inputs[0]), type = float_type(inputs[0].dtype()), y = out.data<char>(), p = p_] {
      std::vector<char> copy;
      const char* data = x.contiguous<char>(copy);
      const int64_t n = x.shape.back(), rows = static_cast<int64_t>(x.size()) / n, bytes = n * float_bytes(type);
      parallel_phases([&](Phases& run) {
        run.each(rows, 1, [&](int64_t begin, int64_t end) {
          char* space = workspace(row_bytes(n) + (p > 0 ? buckets * sizeof(double) : 0));
          for (int64_t i = begin; i < end; ++i) {
            Row row = open(data + i * bytes, type, n, space);
            if (p > 0) {
              keep_mass(row, n, p, reinterpret_cast<double*>(space + row_bytes(n)));
            } else {
              const float shift = row.max + std::log(row.sum);
              for (int64_t j = 0; j < n; ++j) {
                row.x[j] -= shift;
              }
            }
            row_kernels().convert(row.x, Float::f32, n, y + i * bytes, type);
          }
        });
      }, rows == 1 ? 1 : threads_for(static_cast<double>(rows * n)));
    });
  }
  const char* name() const override { return p_ > 0 ? "MlxLmTopP" : "MlxLmLogSoftmax"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return p_ == static_cast<const Vocabulary&>(other).p_;
  }

 private:
  double p_;
};

// One draw from each row of softmax(x): the first index at which the cumulated mass passes u * total.
class Draw : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  // inputs: x (..., V), u (...) float32 in [0, 1)
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::array& out = outputs[0];
    allocate(out);
    if (out.size() == 0) {
      return;
    }
    submit([x = Operand::of(inputs[0]), type = float_type(inputs[0].dtype()), u = Operand::of(inputs[1]),
            y = out.data<uint32_t>()] {
      std::vector<char> copy, u_copy;
      const char* data = x.contiguous<char>(copy);
      const float* chances = u.contiguous<float>(u_copy);
      const int64_t n = x.shape.back(), rows = static_cast<int64_t>(x.size()) / n, bytes = n * float_bytes(type);
      parallel_phases([&](Phases& run) {
        run.each(rows, 1, [&](int64_t begin, int64_t end) {
          char* space = workspace(row_bytes(n));
          for (int64_t i = begin; i < end; ++i) {
            y[i] = static_cast<uint32_t>(draw(open(data + i * bytes, type, n, space), n, chances[i]));
          }
        });
      }, rows == 1 ? 1 : threads_for(static_cast<double>(rows * n)));
    });
  }

  static int64_t draw(const Row& row, int64_t n, float u) {
    double total = 0;
    for (int64_t i = 0; i < n; ++i) {
      total += static_cast<double>(row.e[i]);
    }
    const double target = static_cast<double>(u) * total;
    double mass = 0;
    for (int64_t i = 0; i < n; ++i) {
      mass += static_cast<double>(row.e[i]);
      if (mass > target) {
        return i;
      }
    }
    return row_kernels().argmax(row.x, Float::f32, n);  // nothing is finite
  }

  const char* name() const override { return "MlxLmDraw"; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
};

std::optional<mx::array> draw(const mx::array& x, const mx::array& u) {
  mx::Shape shape(x.shape().begin(), x.shape().end());
  if (x.ndim() < 1 || x.shape(-1) == 0 || !is_kernel_float(x.dtype()) || u.dtype() != mx::float32 ||
      u.shape() != mx::Shape(shape.begin(), shape.end() - 1)) {
    throw std::invalid_argument("draw: float rows and one float32 number for each are needed");
  }
  if (x.is_tracer() || u.is_tracer()) {
    return std::nullopt;
  }
  return mx::array(u.shape(), mx::uint32, std::make_shared<Draw>(cpu_stream()), {x, u});
}

std::optional<mx::array> over_vocabulary(const mx::array& x, double p) {
  if (x.ndim() < 1 || x.shape(-1) == 0 || !is_kernel_float(x.dtype())) {
    throw std::invalid_argument("log_softmax, top_p: a float array whose last axis is not empty is needed");
  }
  if (x.is_tracer()) {
    return std::nullopt;
  }
  return mx::array(x.shape(), x.dtype(), std::make_shared<Vocabulary>(cpu_stream(), p), {x});
}

}  // namespace

}  // namespace mlx_lm

MLX_LM_BIND(m) {
  using namespace mlx_lm;
  using namespace nb::literals;
  m.def("draw", &draw, "x"_a, "u"_a);
  m.def("log_softmax", [](const mx::array& x) { return over_vocabulary(x, 0); }, "x"_a);
  m.def("top_p", [](const mx::array& x, double p) {
    if (!(p > 0 && p < 1)) {
      throw std::invalid_argument("top_p: p must be between 0 and 1");
    }
    return over_vocabulary(x, p);
  }, "x"_a, "p"_a);
}
