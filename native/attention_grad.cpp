// Gradients of attention: for each (row, kv head) blocks of queries one after the other, scores computed anew.
//
// With P the probabilities and dP = dO V^T: dS = P * (dP - sum(P * dP)), dQ = scale dS K, dK = scale dS^T Q,
// dV = P^T dO; a soft cap multiplies dS by 1 - tanh^2, a sink's gradient is -(its probability) * sum(P * dP).
// The products are the forward kernels with other operands.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "attention.h"
#include "elementwise.h"
#include "stages.h"

namespace mlx_lm {

namespace {

constexpr int64_t most_rows = 48;

// Sizes of one thread's memory.
struct Sizes {
  int64_t rows, ld, total, key_dim, value_dim;
};

struct Space {
  float *q, *dout, *packed, *s, *p, *dp, *turned, *acc, *dk, *dv, *sums;
  Visible *visible, *seen;
  char* tile;
};

// With base null it only counts.
size_t lay_out(const Sizes& n, char* base, Space* to) {
  size_t used = 0;
  auto take = [&](int64_t bytes) {
    char* at = base == nullptr ? nullptr : base + used;
    used += static_cast<size_t>((bytes + 63) / 64 * 64);
    return at;
  };
  auto floats = [&](int64_t count) { return reinterpret_cast<float*>(take(4 * count)); };
  const int64_t wide = std::max(n.key_dim, n.value_dim);
  to->q = floats(n.rows * n.key_dim);
  to->dout = floats(n.rows * n.value_dim);
  to->packed = floats(n.rows * wide);
  to->s = floats(n.rows * n.ld);
  to->p = floats(n.rows * n.ld);
  to->dp = floats(n.rows * n.ld);
  to->turned = floats(n.rows * n.ld);
  to->acc = floats(n.rows * n.key_dim);
  to->dk = floats(n.total * n.key_dim);
  to->dv = floats(n.total * n.value_dim);
  to->sums = floats(n.rows);
  to->visible = reinterpret_cast<Visible*>(take(n.rows * static_cast<int64_t>(sizeof(Visible))));
  to->seen = reinterpret_cast<Visible*>(take(n.ld * static_cast<int64_t>(sizeof(Visible))));
  to->tile = take(attention_kernels().scratch_bytes(wide, wide));
  return used;
}

Sizes sizes_of(const AttentionWork& w) {
  const int64_t per_head = w.heads / w.kv_heads, tile = attention_kernels().key_tile;
  Sizes n{std::min(std::max(most_rows / per_head, int64_t{1}), w.length) * per_head, 0, 0, w.key_dim, w.value_dim};
  for (int64_t b = 0; b < w.batch; ++b) {
    n.total = std::max(n.total, w.rows[b].total);
  }
  n.ld = (n.total + tile - 1) / tile * tile + 16;
  return n;
}

// The gradients of one (row, kv head).
class Head {
 public:
  Head(const AttentionWork& w, const AttentionGradients& g, const Space& space, int64_t ld, int64_t row, int64_t kv_head)
      : w_(w), g_(g), s_(space), ld_(ld), row_(w.rows[row]), b_(row), h_(kv_head), per_head_(w.heads / w.kv_heads) {
    keys_ = row_.keys;
    keys_.data += kv_head * row_.key_head_bytes;
    values_ = row_.values;
    values_.data += kv_head * row_.value_head_bytes;
  }

  void run() {
    std::memset(s_.dk, 0, static_cast<size_t>(row_.total * w_.key_dim) * 4);
    std::memset(s_.dv, 0, static_cast<size_t>(row_.total * w_.value_dim) * 4);
    const int64_t step = std::min(std::max(most_rows / per_head_, int64_t{1}), w_.length);
    for (first_ = 0; first_ < w_.length; first_ += step) {
      rows_ = std::min(step, w_.length - first_) * per_head_;
      block();
    }
    put(s_.dk, row_.total * w_.key_dim, g_.keys[b_], g_.key_types[b_]);
    put(s_.dv, row_.total * w_.value_dim, g_.values[b_], g_.value_types[b_]);
  }

 private:
  int64_t position(int64_t i) const { return row_.total - w_.length + first_ + i / per_head_; }
  int64_t head(int64_t i) const { return h_ * per_head_ + i % per_head_; }

  void put(const float* from, int64_t n, void* to, Float type) const {
    row_kernels().convert(from, Float::f32, n, static_cast<char*>(to) + h_ * n * float_bytes(type), type);
  }

  void block() {
    const AttentionKernels& kernels = attention_kernels();
    int64_t begin = row_.total, end = 0;
    for (int64_t i = 0; i < rows_; ++i) {
      const int64_t token = first_ + i / per_head_;
      const int64_t q = b_ * w_.q_batch + head(i) * w_.q_head + token * w_.q_token;
      kernels.scale(static_cast<const char*>(w_.q) + q * float_bytes(w_.q_type), w_.q_type, w_.scale, w_.key_dim,
                    s_.q + i * w_.key_dim);
      const int64_t out = b_ * g_.out_batch + head(i) * g_.out_head + token * g_.out_token;
      kernels.scale(static_cast<const char*>(g_.out) + out * float_bytes(g_.out_type), g_.out_type, 1.0f,
                    w_.value_dim, s_.dout + i * w_.value_dim);
      s_.visible[i] = visible_keys(position(i), row_.window, row_.keep);
      begin = std::min(begin, s_.visible[i].head > 0 ? 0 : s_.visible[i].begin);
      end = std::max(end, s_.visible[i].end);
    }
    begin = begin / kernels.key_tile * kernels.key_tile;
    kernels.pack_rows(s_.q, rows_, w_.key_dim, s_.packed);
    kernels.scores(keys_, s_.packed, rows_, w_.key_dim, begin, end, s_.s, ld_, s_.tile);
    kernels.pack_rows(s_.dout, rows_, w_.value_dim, s_.packed);
    kernels.scores(values_, s_.packed, rows_, w_.value_dim, begin, end, s_.dp, ld_, s_.tile);
    for (int64_t i = 0; i < rows_; ++i) {
      softmax(i);
    }
    queries();
    see(begin, end);
    // dK and dV: the queries take the place of the keys
    turn(s_.dp, begin, end);
    add(s_.q, w_.key_dim, begin, end, s_.dk);
    turn(s_.p, begin, end);
    add(s_.dout, w_.value_dim, begin, end, s_.dv);
  }

  // p becomes the probabilities of row i, dp the gradient of its scores.
  void softmax(int64_t i) {
    const float* sink = w_.sinks == nullptr ? nullptr : w_.sinks + head(i);
    const Visible& v = s_.visible[i];
    float *s = s_.s + i * ld_, *p = s_.p + i * ld_, *dp = s_.dp + i * ld_;
    const float inverse = 1.0f / attention_kernels().softmax(s, p, v, w_.softcap, sink);
    const int64_t from[2] = {0, v.begin}, to[2] = {v.head, v.end};
    double mean = 0, sum = 0;
    for (int part = 0; part < 2; ++part) {
      for (int64_t k = from[part]; k < to[part]; ++k) {
        p[k] *= inverse;
        mean += static_cast<double>(p[k] * dp[k]);
        sum += static_cast<double>(p[k]);
      }
    }
    const auto d = static_cast<float>(mean);
    for (int part = 0; part < 2; ++part) {
      for (int64_t k = from[part]; k < to[part]; ++k) {
        dp[k] = p[k] * (dp[k] - d);
      }
      for (int64_t k = from[part]; w_.softcap > 0 && k < to[part]; ++k) {
        const float t = std::tanh(s[k] / w_.softcap);
        dp[k] *= 1.0f - t * t;
      }
    }
    if (sink != nullptr) {
      g_.sinks[b_ * w_.heads + head(i)] -= static_cast<float>((1.0 - sum) * mean);
    }
  }

  void queries() {
    const int64_t d = w_.key_dim;
    std::memset(s_.acc, 0, static_cast<size_t>(rows_ * d) * 4);
    attention_kernels().values(keys_, s_.dp, ld_, s_.visible, rows_, 0, d, s_.acc, d, s_.tile);
    attention_kernels().scale(s_.acc, Float::f32, w_.scale, rows_ * d, s_.acc);
    for (int64_t i = 0; i < rows_; ++i) {
      const int64_t at = ((b_ * w_.heads + head(i)) * w_.length + first_ + i / per_head_) * d;
      row_kernels().convert(s_.acc + i * d, Float::f32, d,
                            static_cast<char*>(g_.queries) + at * float_bytes(w_.q_type), w_.q_type);
    }
  }

  // Which rows see each key: those from its own position on, as far as the window reaches.
  void see(int64_t begin, int64_t end) {
    const int64_t start = position(0);
    for (int64_t k = begin; k < end; ++k) {
      const int64_t last = row_.window == 0 || k < row_.keep ? row_.total : k + row_.window;
      s_.seen[k - begin] = {0, std::clamp((k - start) * per_head_, int64_t{0}, rows_),
                            std::clamp((last - start) * per_head_, int64_t{0}, rows_)};
    }
  }

  // turned (keys, rows) = from (rows, keys) in blocks that stay in L1.
  void turn(const float* from, int64_t begin, int64_t end) {
    for (int64_t k0 = begin; k0 < end; k0 += 16) {
      const int64_t k1 = std::min(k0 + 16, end);
      for (int64_t i = 0; i < rows_; ++i) {
        for (int64_t k = k0; k < k1; ++k) {
          s_.turned[(k - begin) * rows_ + i] = from[i * ld_ + k];
        }
      }
    }
  }

  void add(const float* rows, int64_t dim, int64_t begin, int64_t end, float* to) {
    TokenRows tokens{};
    tokens.data = reinterpret_cast<const char*>(rows);
    tokens.token_bytes = dim * 4;
    tokens.type = Float::f32;
    attention_kernels().values(tokens, s_.turned, rows_, s_.seen, end - begin, 0, dim, to + begin * dim, dim, s_.tile);
  }

  const AttentionWork& w_;
  const AttentionGradients& g_;
  const Space& s_;
  const int64_t ld_;
  const AttentionRow& row_;
  const int64_t b_, h_, per_head_;
  TokenRows keys_{}, values_{};
  int64_t first_ = 0, rows_ = 0;
};

}  // namespace

size_t attention_gradient_bytes(const AttentionWork& work) {
  Space space{};
  return lay_out(sizes_of(work), nullptr, &space);
}

void attend_backward(const AttentionWork& work, const AttentionGradients& gradients, Stages& run, char* scratch) {
  const Sizes sizes = sizes_of(work);
  Space space{};
  lay_out(sizes, scratch, &space);
  run.each(work.batch * work.kv_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Head(work, gradients, space, sizes.ld, i / work.kv_heads, i % work.kv_heads).run();
    }
  });
}

}  // namespace mlx_lm
