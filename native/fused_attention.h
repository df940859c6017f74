// The attention of all layers of a fused step, and what a layer's products fetch for the attention that follows.
#pragma once

#include <algorithm>
#include <vector>

#include "attention.h"
#include "fused.h"
#include "pool.h"

namespace mlx_lm {

inline TokenRows tokens_of(const mx::array& a, int64_t b, int64_t* head_bytes) {
  TokenRows rows{};
  rows.type = float_type(a.dtype());
  rows.token_bytes = a.shape(3) * float_bytes(rows.type);
  *head_bytes = a.shape(2) * rows.token_bytes;
  rows.data = a.data<char>() + b * a.shape(1) * *head_bytes;
  return rows;
}

inline AttentionWork attention_work(const FusedStep& step, const FusedLayer& layer, int64_t index, AttentionRow* rows) {
  const FusedStates& states = *step.states;
  const int64_t count = static_cast<int64_t>(states.keys.size() / step.plan->layers.size());
  for (int64_t b = 0; b < step.batch; ++b) {
    const auto at = static_cast<size_t>(index * count + (count == 1 ? 0 : b));
    AttentionRow& row = rows[b];
    row = {};
    row.keys = tokens_of(states.keys[at]->array(), count == 1 ? b : 0, &row.key_head_bytes);
    row.values = tokens_of(states.values[at]->array(), count == 1 ? b : 0, &row.value_head_bytes);
    row.total = states.lengths[at] + step.length;
    row.window = states.windows[at];
    row.keep = states.keeps[at];
  }
  AttentionWork work{};
  work.rows = rows;
  work.batch = step.batch;
  work.heads = layer.heads;
  work.kv_heads = layer.kv_heads;
  work.length = step.length;
  work.key_dim = work.value_dim = layer.head_dim;
  work.scale = layer.scale;
  work.softcap = layer.softcap;
  work.fast = step.fast;
  work.sinks = layer.sinks.empty() ? nullptr : layer.sinks.data();
  work.q_type = work.out_type = Float::f32;
  work.q_head = work.out_head = layer.head_dim;
  work.q_token = work.out_token = layer.heads * layer.head_dim;
  work.q_batch = work.out_batch = step.length * work.q_token;
  return work;
}

// Made once for all threads.
struct AttentionOfLayers {
  std::vector<AttentionRow> rows;
  std::vector<AttentionWork> works;

  explicit AttentionOfLayers(const FusedStep& step) {
    const std::vector<FusedLayer>& layers = step.plan->layers;
    rows.resize(layers.size() * static_cast<size_t>(step.batch));
    for (size_t i = 0; i < layers.size(); ++i) {
      AttentionRow* own = rows.data() + i * static_cast<size_t>(step.batch);
      works.push_back(attention_work(step, layers[i], static_cast<int64_t>(i), own));
    }
  }
};

// Keys and values that a thread will read in the next layer, fetched while the products between here and there compute:
// attention of a batch is bound by memory, its products are not.
class AheadOfAttention {
 public:
  Ahead* fetched() { return &ahead_; }

  void clear() {
    spans_.clear();
    ahead_ = {};
  }

  // groups: of rows and kv heads, the part of `work` that the thread will do; `last` is the layer that is running.
  void plan(const AttentionWork& work, Range groups, const FusedLayer& last, const FusedLayer& next, int threads) {
    // with fewer rows, dense weights alone keep the memory busy
    const int64_t least_rows = last.down.matrix.format == Format::dense ? 3 : 1;
    constexpr int64_t most_lines = 8;  // more would wait for each other
    clear();
    if (work.batch * work.length < least_rows) {
      return;
    }
    int64_t lines = 0, pieces = 0;
    for (const bool values : {false, true}) {
      for (int64_t g = groups.begin; g < groups.end; ++g) {
        const AttentionRow& row = work.rows[g / work.kv_heads];
        const TokenRows& side = values ? row.values : row.keys;
        const char* head = side.data + g % work.kv_heads * (values ? row.value_head_bytes : row.key_head_bytes);
        const int64_t from = row.window > 0 ? std::max(row.total - row.window - work.length, int64_t{0}) : 0;
        spans_.push_back({head + from * side.token_bytes, head + row.total * side.token_bytes});
        lines += (row.total - from) * side.token_bytes / 64;
      }
    }
    for (const FusedLinear* w :
         {&last.out, &last.up, &last.gate, &last.down, &next.qkv[0], &next.qkv[1], &next.qkv[2]}) {
      if (w->there) {
        pieces += panels_of(w->matrix) * (padded_k(w->matrix) / 32) / threads;
      }
    }
    ahead_.next = spans_.data();
    ahead_.stop = spans_.data() + spans_.size();
    ahead_.lines = static_cast<int>(std::min(lines / std::max(pieces, int64_t{1}) + 1, most_lines));
  }

 private:
  std::vector<Ahead::Span> spans_;
  Ahead ahead_{};
};

}  // namespace mlx_lm
