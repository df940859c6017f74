// One step through a run of decoder layers: every stage shared out to the pool, residual in float32.
//
// Stages of a layer: qkv | (rotate, write keys and values) | scores | weighted sums | output projection | gate and up |
// down. Inputs of at most `private_rows` rows are normed and prepared by every thread for itself, which costs less
// than waiting for each other. Numbers do not depend on the cut: see linear.h and attention.h.
#include "fused.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "fused_attention.h"
#include "fused_input.h"
#include "stages.h"
#include "workspace.h"

namespace mlx_lm {

namespace {

constexpr int64_t private_rows = 8;
constexpr int64_t private_rotation = 4;
constexpr int64_t strip_floats = 64 * 1024;  // one product's strip of columns stays in L2

int64_t columns_of_strip(int64_t rows) {
  return std::clamp(strip_floats / std::max(rows, int64_t{1}) / 64 * 64, int64_t{64}, int64_t{512});
}

class Runner {
 public:
  // works: the attention of every layer.
  Runner(const FusedStep& step, const AttentionWork* works, Stages& run, const Shared& shared, const Own& own)
      : step_(step), plan_(*step.plan), works_(works), run_(run), s_(shared), own_(own),
        rows_(step.batch * step.length) {}

  void all() {
    first();
    for (size_t i = 0; i < plan_.layers.size(); ++i) {
      const FusedLayer& layer = plan_.layers[i];
      mix(layer, static_cast<int64_t>(i));
      feed_forward(layer);
    }
    last();
  }

 private:
  bool few() const { return rows_ <= private_rows; }

  // ---------------------------------------------------------------- inputs

  // Norms (where there is one) and prepares `x` for the matrices. For a few rows nothing happens here: the first
  // piece of work that needs the input asks `get`.
  void start(Input& input, const FusedLinear* const* matrices, int count, const float* x, const FusedNorm* norm) {
    Arena space{few() ? own_.input : s_.input};
    input.plan(matrices, count, step_.fast, rows_, space);
    input.fetch(ahead_.fetched());
    input_x_ = x;
    input_norm_ = norm != nullptr && norm->there ? norm : nullptr;
    if (few()) {
      return;
    }
    for (int f = 0; f < input.forms(); ++f) {
      const Rows& rows = input.rows_at(f);
      run_.each(row_blocks(rows), 1, [&](int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) {
          prepare_block(input.matrix(f), rows, b);
        }
      });
    }
    input.ready = true;
  }

  void prepare_block(const Matrix& m, const Rows& rows, int64_t block) {
    const int64_t first = block * rows.block, count = std::min<int64_t>(rows.block, rows_ - first);
    const int64_t units = rows.k / rows.unit;
    const float* from = input_x_;
    if (input_norm_ != nullptr) {
      for (int64_t r = 0; r < count; ++r) {
        norm_row(*input_norm_, input_x_ + (first + r) * m.k, m.k, own_.row + r * m.k);
      }
      from = own_.row - first * m.k;
    }
    linear_kernels().prepare(m, rows, from, Float::f32, m.k, nullptr, block * units, (block + 1) * units);
  }

  const Rows& get(Input& input, const Matrix& m) {
    if (!input.ready) {
      for (int f = 0; f < input.forms(); ++f) {
        for (int64_t b = 0; b < row_blocks(input.rows_at(f)); ++b) {
          prepare_block(input.matrix(f), input.rows_at(f), b);
        }
      }
      input.ready = true;
    }
    return input.rows(m);
  }

  static void norm_row(const FusedNorm& norm, const float* x, int64_t n, float* y) {
    row_kernels().rms_norm(x, Float::f32, norm.weight.data(), norm.eps, n, y, Float::f32);
  }

  static void add_bias(const std::vector<float>& bias, float* y, int64_t ldy, int64_t rows, int64_t begin,
                       int64_t end) {
    if (!bias.empty()) {
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t j = begin; j < end; ++j) {
          y[r * ldy + j] += bias[static_cast<size_t>(j)];
        }
      }
    }
  }

  // ---------------------------------------------------------------- first and last

  void first() {
    const int64_t d = plan_.hidden, item = float_bytes(step_.x_type);
    run_.each(rows_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        row_kernels().convert(step_.x + i * d * item, step_.x_type, d, s_.x + i * d, Float::f32);
        float* to = s_.angles;
        auto position = static_cast<float>(step_.states->positions[static_cast<size_t>(i / step_.length)] +
                                           static_cast<int>(i % step_.length));
        for (const FusedRope& rope : plan_.ropes) {
          const auto half = static_cast<int64_t>(rope.inverse.size());
          float* row = to + i * 2 * half;
          for (int64_t j = 0; j < half; ++j) {
            row[j] = std::cos(position * rope.inverse[static_cast<size_t>(j)]);
            row[half + j] = std::sin(position * rope.inverse[static_cast<size_t>(j)]);
          }
          to += rows_ * 2 * half;
        }
      }
    });
  }

  void last() {
    const int64_t d = plan_.hidden, item = float_bytes(step_.y_type);
    const FusedNorm& norm = plan_.final_norm;
    run_.each(rows_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        char* to = step_.y + i * d * item;
        if (norm.there) {
          row_kernels().rms_norm(s_.x + i * d, Float::f32, norm.weight.data(), norm.eps, d, to, step_.y_type);
        } else {
          row_kernels().convert(s_.x + i * d, Float::f32, d, to, step_.y_type);
        }
      }
    });
  }

  // ---------------------------------------------------------------- attention

  struct Heads {
    const Runner* runner;
    const FusedLayer* layer;
    const AttentionWork* work;
  };

  void mix(const FusedLayer& layer, int64_t index) {
    project(layer);
    AttentionWork work = works_[index];
    work.out = s_.attended;
    AttentionCut cut = cut_attention(work, run_.size());
    Heads heads{this, &layer, &work};
    if (cut.split && rows_ <= private_rotation) {
      // every thread rotates the queries for itself and writes the new keys and values that it is about to score
      for (int64_t i = 0; i < rows_; ++i) {
        rotate_queries(layer, i, own_.rotated + i * work.q_token);
      }
      work.q = own_.rotated;
      work.before = [](void* context, int64_t b, int64_t h, int64_t begin, int64_t end) {
        const Heads& at = *static_cast<Heads*>(context);
        const int64_t length = at.runner->step_.length, known = at.work->rows[b].total - length;
        for (int64_t t = std::max(begin - known, int64_t{0}); t < end - known; ++t) {
          at.runner->write_head(*at.layer, *at.work, b, t, h);
        }
      };
      work.context = &heads;
    } else {
      work.q = s_.rotated;
      run_.each(rows_, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          rotate_queries(layer, i, s_.rotated + i * work.q_token);
          for (int64_t h = 0; h < layer.kv_heads; ++h) {
            write_head(layer, work, i / step_.length, i % step_.length, h);
          }
        }
      });
    }
    attend(work, cut, run_, own_.slot, s_.attention);
    if (few() && index + 1 < static_cast<int64_t>(plan_.layers.size())) {
      ahead_.plan(works_[index + 1], run_.share(step_.batch * layer.kv_heads, own_.slot), layer,
                  plan_.layers[static_cast<size_t>(index) + 1], run_.size());
    } else {
      ahead_.clear();
    }
    add_product(layer, layer.out, s_.attended, layer.post_mixer);
  }

  void project(const FusedLayer& layer) {
    const FusedLinear* matrices[3];
    int count = 0;
    int64_t panels = 0;
    for (const FusedLinear& m : layer.qkv) {
      if (m.there) {
        matrices[count++] = &m;
        panels += panels_of(m.matrix);
      }
    }
    Input input;
    start(input, matrices, count, s_.x, &layer.pre_mixer);
    const int64_t width = qkv_width(layer);
    run_.each(panels, few() ? 1 : 2, [&](int64_t begin, int64_t end) {
      int64_t panel = 0, column = 0;
      for (int i = 0; i < count; ++i) {
        const Matrix& m = matrices[i]->matrix;
        const int64_t own = panels_of(m), from = std::max(begin - panel, int64_t{0}), to = std::min(end - panel, own);
        if (from < to) {
          float* y = s_.qkv + column;
          linear_kernels().multiply(m, get(input, m), y, Float::f32, width, from, to);
          add_bias(matrices[i]->bias, y, width, rows_, from * 16, std::min(to * 16, m.n));
        }
        panel += own;
        column += m.n;
      }
    });
  }

  static int64_t qkv_width(const FusedLayer& layer) { return (layer.heads + 2 * layer.kv_heads) * layer.head_dim; }

  const float* angles_of(const FusedLayer& layer, int64_t row) const {
    const float* at = s_.angles;
    for (int i = 0; i < layer.rope_index; ++i) {
      at += rows_ * 2 * static_cast<int64_t>(plan_.ropes[static_cast<size_t>(i)].inverse.size());
    }
    return at + row * 2 * static_cast<int64_t>(layer.rope.inverse.size());
  }

  // One head of row i: normed (when the norm is per head), rotated, stored as `type`.
  void finish_head(const FusedLayer& layer, const FusedNorm& norm, const float* x, int64_t row, void* to,
                   Float type) const {
    const int64_t d = layer.head_dim, half = static_cast<int64_t>(layer.rope.inverse.size());
    float* normed = own_.row;
    if (norm.there && !layer.qk_norm_full) {
      norm_row(norm, x, d, normed);
      x = normed;
    }
    if (half == 0) {
      row_kernels().convert(x, Float::f32, d, to, type);
      return;
    }
    const float* angles = angles_of(layer, row);
    row_kernels().rotate(x, Float::f32, angles, angles + half, layer.rope.scale, 2 * half, layer.rope.traditional, d,
                         to, type);
  }

  void rotate_queries(const FusedLayer& layer, int64_t row, float* to) const {
    const float* q = s_.qkv + row * qkv_width(layer);
    if (layer.q_norm.there && layer.qk_norm_full) {
      float* normed = own_.row + layer.head_dim;
      norm_row(layer.q_norm, q, layer.heads * layer.head_dim, normed);
      q = normed;
    }
    for (int64_t h = 0; h < layer.heads; ++h) {
      finish_head(layer, layer.q_norm, q + h * layer.head_dim, row, to + h * layer.head_dim, Float::f32);
    }
  }

  // Key and value of new token t of batch row b.
  void write_head(const FusedLayer& layer, const AttentionWork& work, int64_t b, int64_t t, int64_t h) const {
    const int64_t row = b * step_.length + t, d = layer.head_dim;
    const float* k = s_.qkv + row * qkv_width(layer) + layer.heads * d;
    const float* v = k + (layer.kv_heads + h) * d;
    if (layer.k_norm.there && layer.qk_norm_full) {
      float* normed = own_.row + d;
      norm_row(layer.k_norm, k, layer.kv_heads * d, normed);
      k = normed;
    }
    const AttentionRow& to = work.rows[b];
    const int64_t at = to.total - step_.length + t;
    char* key = const_cast<char*>(to.keys.data) + h * to.key_head_bytes + at * to.keys.token_bytes;
    char* value = const_cast<char*>(to.values.data) + h * to.value_head_bytes + at * to.values.token_bytes;
    finish_head(layer, layer.k_norm, k + h * d, row, key, to.keys.type);
    row_kernels().convert(v, Float::f32, d, value, to.values.type);
  }

  // ---------------------------------------------------------------- feed-forward and residual

  int64_t strip_columns() const { return columns_of_strip(rows_); }

  // residual += scale * norm(x @ w.T + bias)
  void add_product(const FusedLayer& layer, const FusedLinear& w, const float* x, const FusedNorm& norm) {
    const FusedLinear* matrices[] = {&w};
    Input input;
    start(input, matrices, 1, x, nullptr);
    add_product(layer, w, input, norm);
  }

  void add_product(const FusedLayer& layer, const FusedLinear& w, Input& input, const FusedNorm& norm) {
    const Matrix& m = w.matrix;
    const int64_t d = plan_.hidden, columns = strip_columns();
    run_.each(panels_of(m), few() ? 1 : 2, [&](int64_t begin, int64_t end) {
      const Rows& rows = get(input, m);
      for (int64_t c = begin * 16; c < std::min(end * 16, m.n); c += columns) {
        const int64_t stop = std::min({c + columns, end * 16, m.n});
        if (norm.there) {
          linear_kernels().multiply(m, rows, s_.product, Float::f32, d, c / 16, (stop + 15) / 16);
          add_bias(w.bias, s_.product, d, rows_, c, stop);
          continue;
        }
        linear_kernels().multiply(m, rows, own_.strip - c, Float::f32, columns, c / 16, (stop + 15) / 16);
        for (int64_t r = 0; r < rows_; ++r) {
          row_kernels().add(s_.x + r * d + c, own_.strip + r * columns, w.bias.empty() ? nullptr : w.bias.data() + c,
                            layer.residual_scale, stop - c);
        }
      }
    });
    if (norm.there) {
      run_.each(rows_, 1, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          norm_row(norm, s_.product + r * d, d, own_.row);
          row_kernels().add(s_.x + r * d, own_.row, nullptr, layer.residual_scale, d);
        }
      });
    }
  }

  void feed_forward(const FusedLayer& layer) {
    const FusedLinear* matrices[] = {&layer.up, &layer.gate};
    Input input;
    start(input, matrices, layer.gate.there ? 2 : 1, s_.x, &layer.pre_feed_forward);
    const FusedLinear* down[] = {&layer.down};
    Input hidden;
    Arena space{s_.hidden};
    hidden.plan(down, 1, step_.fast, rows_, space);
    hidden.ready = true;
    hidden.fetch(ahead_.fetched());
    const int64_t n = layer.up.matrix.n, columns = strip_columns();
    const Rows& prepared = hidden.rows_at(0);
    const int64_t units = prepared.k / prepared.unit;
    run_.each((n + 63) / 64, 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin * 64; c < std::min(end * 64, n); c += columns) {
        const int64_t stop = std::min({c + columns, end * 64, n});
        strip(layer.up, get(input, layer.up.matrix), own_.strip, columns, c, stop);
        if (layer.gate.there) {
          strip(layer.gate, get(input, layer.gate.matrix), own_.strip2, columns, c, stop);
        }
        for (int64_t r = 0; r < rows_; ++r) {
          float* up = own_.strip + r * columns;
          const float* gate = own_.strip2 + r * columns;
          row_kernels().activate(layer.act, layer.gate.there ? gate : up, Float::f32, layer.gate.there ? up : nullptr,
                                 Float::f32, stop - c, up, Float::f32);
        }
        const int64_t first = c / prepared.unit, last = (stop + prepared.unit - 1) / prepared.unit;
        for (int64_t b = 0; b < row_blocks(prepared); ++b) {
          linear_kernels().prepare(layer.down.matrix, prepared, own_.strip - c, Float::f32, columns, nullptr,
                                   b * units + first, b * units + (stop == n ? units : last));
        }
      }
    });
    add_product(layer, layer.down, hidden, layer.post_feed_forward);
  }

  void strip(const FusedLinear& w, const Rows& rows, float* to, int64_t columns, int64_t begin, int64_t end) {
    linear_kernels().multiply(w.matrix, rows, to - begin, Float::f32, columns, begin / 16, (end + 15) / 16);
    add_bias(w.bias, to - begin, columns, rows_, begin, end);
  }

  const FusedStep& step_;
  const FusedPlan& plan_;
  const AttentionWork* works_;
  Stages& run_;
  const Shared& s_;
  const Own& own_;
  const int64_t rows_;
  const float* input_x_ = nullptr;
  const FusedNorm* input_norm_ = nullptr;
  AheadOfAttention ahead_;
};

// The largest need of any layer.
struct Need {
  int64_t qkv = 0, heads = 0, row = 0, angles = 0;
  size_t input = 0, hidden = 0, attention = 0;
};

Need need_of(const FusedStep& step, const std::vector<AttentionWork>& works, int threads) {
  Need need;
  const int64_t rows = step.batch * step.length;
  const FusedPlan& plan = *step.plan;
  for (size_t i = 0; i < plan.layers.size(); ++i) {
    const FusedLayer& layer = plan.layers[i];
    need.qkv = std::max(need.qkv, (layer.heads + 2 * layer.kv_heads) * layer.head_dim);
    need.heads = std::max(need.heads, layer.heads * layer.head_dim);
    auto grow = [&](std::initializer_list<const FusedLinear*> matrices, size_t& to) {
      Arena count{nullptr};
      Input input;
      const FusedLinear* there[3];
      int n = 0;
      for (const FusedLinear* m : matrices) {
        if (m->there) {
          there[n++] = m;
        }
      }
      input.plan(there, n, step.fast, rows, count);
      to = std::max(to, count.used);
    };
    grow({&layer.qkv[0], &layer.qkv[1], &layer.qkv[2]}, need.input);
    grow({&layer.out}, need.input);
    grow({&layer.up, &layer.gate}, need.input);
    grow({&layer.down}, need.hidden);
    need.attention = std::max(need.attention, cut_attention(works[i], threads).bytes);
  }
  for (const FusedRope& rope : plan.ropes) {
    need.angles += 2 * static_cast<int64_t>(rope.inverse.size());
  }
  // a block of normed rows, or one row of all heads and a head
  need.row = std::max(12 * plan.hidden, need.qkv + need.heads);
  return need;
}

}  // namespace

void run_fused(const FusedStep& step) {
  const LargePagesRest rest(step.length > 8);
  const int threads = num_threads();
  const int64_t rows = step.batch * step.length;
  const AttentionOfLayers attention(step);
  const std::vector<AttentionWork>& works = attention.works;
  const Need need = need_of(step, works, threads);
  Shared shared{};
  std::vector<Own> own(static_cast<size_t>(threads));
  auto lay_out = [&](Arena& arena) {
    shared.x = arena.take<float>(rows * step.plan->hidden);
    shared.qkv = arena.take<float>(rows * need.qkv);
    shared.rotated = arena.take<float>(rows * need.heads);
    shared.attended = arena.take<float>(rows * need.heads);
    shared.product = arena.take<float>(rows * step.plan->hidden);
    shared.angles = arena.take<float>(rows * need.angles);
    shared.input = arena.take<char>(static_cast<int64_t>(need.input));
    shared.hidden = arena.take<char>(static_cast<int64_t>(need.hidden));
    shared.attention = arena.take<char>(static_cast<int64_t>(need.attention));
    const int64_t strip = rows * columns_of_strip(rows);
    for (int i = 0; i < threads; ++i) {
      Own& o = own[static_cast<size_t>(i)];
      o.slot = i;
      o.row = arena.take<float>(need.row);
      o.strip = arena.take<float>(strip);
      o.strip2 = arena.take<float>(strip);
      o.rotated = arena.take<float>(private_rotation * need.heads);
      o.input = arena.take<char>(rows <= private_rows ? static_cast<int64_t>(need.input) : 0);
    }
  };
  Arena count{nullptr};
  lay_out(count);
  Arena real{workspace(count.used)};
  lay_out(real);
  std::atomic<int> slots{0};
  parallel_stages(rows <= private_rows && undisturbed(), [&](Stages& run) {
    const Own& mine = own[static_cast<size_t>(slots.fetch_add(1, std::memory_order_relaxed))];
    Runner(step, works.data(), run, shared, mine).all();
  });
}

}  // namespace mlx_lm
