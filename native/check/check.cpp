// Every kernel of every instruction set that this CPU has, against double precision, without Python and MLX:
//
//     scripts/check_native.sh                                  # this machine
//     scripts/check_native.sh --valgrind                       # the same, small, under valgrind
//     CXX=aarch64-linux-gnu-g++ RUN="qemu-aarch64 -L /usr/aarch64-linux-gnu" scripts/check_native.sh
//
// It is what can run where the package cannot: other architectures under an emulator, memory checkers. The tests under
// tests/kernels go further.
#include <atomic>
#include <string>

#include "attention.h"
#include "check.h"
#include "elementwise_grad.h"
#include "pool.h"
#include "recurrent.h"
#include "stages.h"
#include "top_k.h"

using namespace mlx_lm;

namespace {

// ---------------------------------------------------------------- rows

void conversions() {
  for (Float type : {Float::bf16, Float::f16}) {
    for (uint32_t first = 0; first < 0x10000; first += 16) {
      uint16_t bits[16], back[16];
      float wide[16];
      for (uint32_t i = 0; i < 16; ++i) bits[i] = static_cast<uint16_t>(first + i);
      row_kernels().convert(bits, type, 16, wide, Float::f32);
      row_kernels().convert(wide, Float::f32, 16, back, type);
      for (int i = 0; i < 16; ++i) {
        const int fraction = type == Float::bf16 ? 7 : 10, e = type == Float::bf16 ? 255 : 31;
        const int exponent = bits[i] >> fraction & e, mantissa = bits[i] & ((1 << fraction) - 1);
        if (exponent == e && mantissa != 0) {
          expect(std::isnan(wide[i]), "NaN");
          continue;
        }
        double value = exponent == e ? INFINITY
                                     : std::ldexp(exponent == 0 ? mantissa : mantissa + (1 << fraction),
                                                  std::max(exponent, 1) - e / 2 - fraction);
        expect(wide[i] == (bits[i] & 0x8000 ? -value : value) && back[i] == bits[i], "conversion", wide[i], value);
      }
    }
  }
}

double activated(Act act, double x) {
  auto sigmoid = [](double v) { return 1 / (1 + std::exp(-v)); };
  switch (act) {
    case Act::silu:
      return x * sigmoid(x);
    case Act::gelu:
      return x * 0.5 * std::erfc(-x * std::sqrt(0.5));
    case Act::gelu_tanh:
      return x * sigmoid(2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
    case Act::quick_gelu:
      return x * sigmoid(1.702 * x);
    case Act::relu:
      return std::max(x, 0.0);
    case Act::relu2:
      return std::max(x, 0.0) * std::max(x, 0.0);
    case Act::sigmoid:
      return sigmoid(x);
    case Act::tanh:
      return std::tanh(x);
    default:
      return x;
  }
}

void rows_of_numbers() {
  for (int64_t n : {1, 7, 16, 33, 200}) {
    auto at = [](int64_t i) { return static_cast<size_t>(i); };
    std::vector<float> x = normals(n), w = normals(n), b = normals(n), y(at(n));
    double square = 0, mean = 0, deviation = 0;
    for (float v : x) {
      square += static_cast<double>(v) * v / static_cast<double>(n);
      mean += v / static_cast<double>(n);
    }
    for (float v : x) deviation += (v - mean) * (v - mean) / static_cast<double>(n);
    row_kernels().rms_norm(x.data(), Float::f32, w.data(), 1e-3f, n, y.data(), Float::f32);
    for (int64_t i = 0; i < n; ++i) near(y[at(i)], x[at(i)] / std::sqrt(square + 1e-3) * w[at(i)], 1e-5, "rms norm");
    row_kernels().layer_norm(x.data(), Float::f32, w.data(), b.data(), 1e-3f, n, y.data(), Float::f32);
    for (int64_t i = 0; i < n; ++i) {
      near(y[at(i)], (x[at(i)] - mean) / std::sqrt(deviation + 1e-3) * w[at(i)] + b[at(i)], 3e-5, "layer norm");
    }
    for (Act act : {Act::none, Act::silu, Act::gelu, Act::gelu_tanh, Act::quick_gelu, Act::relu, Act::relu2,
                    Act::sigmoid, Act::tanh}) {
      for (float& v : x) v *= 1.5f;
      row_kernels().activate(act, x.data(), Float::f32, w.data(), Float::f32, n, y.data(), Float::f32);
      std::vector<float> dgate(at(n)), dup(at(n));
      gradient_kernels().activate({act, Float::f32, Float::f32, Float::f32}, x.data(), w.data(), b.data(), dgate.data(),
                                  dup.data(), n);
      for (int64_t i = 0; i < n; ++i) {
        const double v = x[at(i)], h = 1e-5;
        near(y[at(i)], activated(act, v) * w[at(i)], 1e-5, "activation");
        near(dup[at(i)], activated(act, v) * b[at(i)], 1e-5, "gradient of a gate's product");
        const double slope = (activated(act, v + h) - activated(act, v - h)) / (2 * h);
        near(dgate[at(i)], slope * w[at(i)] * b[at(i)], 1e-4, "gradient of an activation");
      }
    }
    int64_t best = std::max_element(x.begin(), x.end()) - x.begin();
    expect(row_kernels().argmax(x.data(), Float::f32, n) == best, "argmax");
    std::vector<Choice> choices(at(n));
    const int64_t k = std::min<int64_t>(n, 5);
    expect(top_kernels().top(x.data(), Float::f32, 0, n, k, choices.data()) == k, "top k");
    std::sort(choices.begin(), choices.begin() + k);
    std::vector<float> order = x;
    std::sort(order.rbegin(), order.rend());
    for (int64_t i = 0; i < k; ++i) expect(x[choices[at(i)].index] == order[at(i)], "top k");
    for (bool traditional : {false, true}) {
      const int64_t half = n / 2;
      row_kernels().rotate(x.data(), Float::f32, w.data(), b.data(), 0.5f, 2 * half, traditional, n, y.data(), Float::f32);
      for (int64_t i = 0; i < half; ++i) {
        int64_t p = traditional ? 2 * i : i, q = traditional ? 2 * i + 1 : i + half;
        near(y[at(p)], 0.5 * (x[at(p)] * w[at(i)] - x[at(q)] * b[at(i)]), 1e-5, "rotation");
        near(y[at(q)], 0.5 * (x[at(p)] * b[at(i)] + x[at(q)] * w[at(i)]), 1e-5, "rotation");
      }
    }
  }
}

// ---------------------------------------------------------------- attention

// In pairs: of bfloat16, where the instruction set has such products.
void attention(int64_t length, int64_t total, int64_t dim, Float type, float softcap, int64_t window, bool pairs = false) {
  const int64_t heads = 4, kv_heads = 2;
  Stored q(normals(heads * length * dim), type), k(normals(kv_heads * total * dim), type), v(normals(kv_heads * total * dim), type);
  AttentionRow row{};
  row.keys = {k.bytes.data(), dim * float_bytes(type), 0, 0, type, nullptr, nullptr, 0};
  row.values = row.keys;
  row.values.data = v.bytes.data();
  row.key_head_bytes = row.value_head_bytes = total * dim * float_bytes(type);
  row.total = total;
  row.window = window;
  AttentionWork w{};
  w.rows = &row;
  w.batch = 1;
  w.heads = heads;
  w.kv_heads = kv_heads;
  w.length = length;
  w.key_dim = w.value_dim = dim;
  w.scale = 0.2f;
  w.softcap = softcap;
  w.fast = pairs;
  w.q = q.bytes.data();
  w.q_type = type;
  w.q_token = w.out_token = dim;
  w.q_head = w.out_head = length * dim;
  std::vector<float> out(static_cast<size_t>(heads * length * dim));
  w.out = out.data();
  w.out_type = Float::f32;
  AttentionCut cut = cut_attention(w, num_threads());
  Memory scratch(cut.bytes);
  std::atomic<int> slots{0};
  parallel_stages(length % 2 == 0, [&](Stages& run) { attend(w, cut, run, slots.fetch_add(1), scratch.data); });
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t t = 0; t < length; ++t) {
      const int64_t last = total - length + t, first = window > 0 ? std::max<int64_t>(0, last - window + 1) : 0;
      std::vector<double> p;
      double sum = 0;
      auto at = [&](int64_t head, int64_t rows, int64_t token) { return static_cast<size_t>((head * rows + token) * dim); };
      for (int64_t j = first; j <= last; ++j) {
        double s = 0;
        for (int64_t d = 0; d < dim; ++d) {
          s += q.values[at(h, length, t) + static_cast<size_t>(d)] * k.values[at(h / 2, total, j) + static_cast<size_t>(d)];
        }
        s *= 0.2f;
        p.push_back(std::exp(softcap > 0 ? softcap * std::tanh(s / softcap) : s));
        sum += p.back();
      }
      for (int64_t d = 0; d < dim; ++d) {
        double expected = 0;
        for (int64_t j = first; j <= last; ++j) {
          expected += p[static_cast<size_t>(j - first)] / sum * v.values[at(h / 2, total, j) + static_cast<size_t>(d)];
        }
        near(out[at(h, length, t) + static_cast<size_t>(d)], expected, pairs ? 2e-2 : 2e-5, "attention");
      }
    }
  }
}

// Gradients of sum(out * weigh) along a random direction of q, k and v, against slopes of the same sum.
void attention_gradient(int64_t length, int64_t total, int64_t dim, int64_t window) {
  const int64_t heads = 4, kv_heads = 2;
  std::vector<float> in[3] = {normals(heads * length * dim), normals(kv_heads * total * dim), normals(kv_heads * total * dim)};
  std::vector<float> weigh = normals(heads * length * dim), out(weigh.size()), to[3];
  AttentionRow row{};
  row.keys = {nullptr, dim * 4, 0, 0, Float::f32, nullptr, nullptr, 0};
  row.values = row.keys;
  row.key_head_bytes = row.value_head_bytes = total * dim * 4;
  row.total = total;
  row.window = window;
  AttentionWork w{};
  w.rows = &row;
  w.batch = 1;
  w.heads = heads;
  w.kv_heads = kv_heads;
  w.length = length;
  w.key_dim = w.value_dim = dim;
  w.scale = 0.2f;
  w.q_token = w.out_token = dim;
  w.q_head = w.out_head = length * dim;
  w.out = out.data();
  auto at = [&](const std::vector<float>* arrays) {
    w.q = arrays[0].data();
    row.keys.data = reinterpret_cast<const char*>(arrays[1].data());
    row.values.data = reinterpret_cast<const char*>(arrays[2].data());
  };
  auto sum = [&](const std::vector<float>* arrays) {
    at(arrays);
    AttentionCut cut = cut_attention(w, num_threads());
    Memory scratch(cut.bytes);
    std::atomic<int> slots{0};
    parallel_stages(false, [&](Stages& run) { attend(w, cut, run, slots.fetch_add(1), scratch.data); });
    double total_sum = 0;
    for (size_t i = 0; i < out.size(); ++i) total_sum += static_cast<double>(out[i]) * weigh[i];
    return total_sum;
  };
  for (int i = 0; i < 3; ++i) to[i].resize(in[i].size());
  at(in);
  void *keys = to[1].data(), *values = to[2].data();
  const Float type = Float::f32;
  AttentionGradients g{weigh.data(), Float::f32, 0, length * dim, dim, to[0].data(), &keys, &values, &type, &type, nullptr};
  const size_t bytes = attention_gradient_bytes(w);
  Memory scratch(bytes * static_cast<size_t>(num_threads()));
  std::atomic<int> slots{0};
  parallel_stages(false, [&](Stages& run) {
    attend_backward(w, g, run, scratch.data + bytes * static_cast<size_t>(slots.fetch_add(1)));
  });
  for (int i = 0; i < 3; ++i) {
    std::vector<float> direction = normals(static_cast<int64_t>(in[i].size())), kept = in[i];
    double found = 0, slopes[2];
    for (size_t j = 0; j < kept.size(); ++j) found += static_cast<double>(direction[j]) * to[i][j];
    for (int side = 0; side < 2; ++side) {
      for (size_t j = 0; j < kept.size(); ++j) in[i][j] = kept[j] + (side == 0 ? 1e-2f : -1e-2f) * direction[j];
      slopes[side] = sum(in);
    }
    in[i] = kept;
    near(found, (slopes[0] - slopes[1]) / 2e-2, 2e-2, "gradient of attention");
  }
}

// ---------------------------------------------------------------- recurrent layers

void gated_delta(int64_t length, int64_t rows, int64_t width) {
  auto at = [](int64_t i) { return static_cast<size_t>(i); };
  std::vector<float> q = normals(length * width), k = normals(length * width), v = normals(length * rows), g = normals(length),
                     beta = normals(length), state = normals(rows * width), next(at(rows * width)), y(at(length * rows));
  for (float& x : g) x = -std::abs(x);
  for (float& x : k) x *= 0.3f;
  Memory scratch(static_cast<size_t>(state_scratch(width)) * 4);
  auto steps = [](const std::vector<float>& a, int64_t n) {
    return Steps{reinterpret_cast<const char*>(a.data()), Float::f32, n * 4};
  };
  DeltaBlock block{{length, rows, width, reinterpret_cast<const char*>(state.data()), reinterpret_cast<char*>(next.data()),
                    Float::f32, reinterpret_cast<char*>(y.data()), Float::f32, rows * 4, reinterpret_cast<float*>(scratch.data)},
                   steps(q, width), steps(k, width), steps(v, rows), steps(g, 1), steps(beta, 1), false};
  recurrent_kernels().gated_delta(block);
  std::vector<double> s(state.begin(), state.end());
  for (int64_t t = 0; t < length; ++t) {
    for (int64_t r = 0; r < rows; ++r) {
      double seen = 0, out = 0;
      for (int64_t i = 0; i < width; ++i) {
        s[at(r * width + i)] *= std::exp(static_cast<double>(g[at(t)]));
        seen += s[at(r * width + i)] * k[at(t * width + i)];
      }
      for (int64_t i = 0; i < width; ++i) {
        s[at(r * width + i)] += beta[at(t)] * (v[at(t * rows + r)] - seen) * k[at(t * width + i)];
        out += s[at(r * width + i)] * q[at(t * width + i)];
      }
      near(y[at(t * rows + r)], out, 2e-4, "gated delta");
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool small = argc > 1 && std::string(argv[1]) == "small";
  for (Isa isa : all_isas) {
    if (!isa_supported(isa)) {
      continue;
    }
    set_isa(isa_name(isa));
    for (int threads : {1, 3}) {
      set_num_threads(threads);
      for (int64_t length : {1, 2, 7, 70}) {
        if (small && length > 7) {
          continue;
        }
        for (Float type : {Float::f32, Float::bf16, Float::f16}) {
          attention(length, length + below(60), small ? 32 : 80, type, length == 7 ? 5.0f : 0.0f, length == 2 ? 9 : 0);
          attention(length, length, 17, type, 0, 0);
          attention(length, length + below(60), small ? 32 : 96, type, 0, length == 2 ? 9 : 0, true);
        }
        attention_gradient(length, length + below(30), 32, length == 7 ? 5 : 0);
      }
    }
    products(small);
    conversions();
    rows_of_numbers();
    gated_delta(5, 19, 40);
    std::printf("%s: %ld checks, %d failures\n", isa_name(isa), checks, failures);
  }
  set_num_threads(1);
  return failures == 0 ? 0 : 1;
}
