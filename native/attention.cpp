// Shares attention out to the threads of a team.
#include "attention.h"

#include <algorithm>
#include <cstring>

#include "stages.h"

namespace mlx_lm {

namespace {

constexpr int64_t most_rows = 96;            // query rows per block: a transposed key tile serves them all
constexpr int64_t least_rows = 24;
constexpr int64_t block_floats = 128 * 1024;  // scores of a block stay in L2
constexpr int64_t split_rows = 48;
constexpr int64_t most_shared = int64_t{64} << 20;  // floats

int64_t align16(int64_t n) {
  return (n + 15) / 16 * 16;
}

Visible visible_of(const AttentionWork& w, int64_t row, int64_t position) {
  return visible_keys(position, w.rows[row].window, w.rows[row].keep);
}

TokenRows of_head(TokenRows side, int64_t head, int64_t head_bytes, int64_t scale_head_bytes) {
  side.data += head * head_bytes;
  if (side.bits > 0) {
    side.scales += head * scale_head_bytes;
    side.biases += head * scale_head_bytes;
  }
  return side;
}

// One thread's view of one (row, kv head): queries packed, positions [first, first + count).
struct Group {
  const AttentionWork& w;
  const AttentionKernels& kernels;
  int64_t row, kv_head, first, count;

  int64_t per_head() const { return w.heads / w.kv_heads; }
  int64_t rows() const { return count * per_head(); }
  TokenRows keys() const {
    const AttentionRow& r = w.rows[row];
    return of_head(r.keys, kv_head, r.key_head_bytes, r.key_scale_head_bytes);
  }
  TokenRows values() const {
    const AttentionRow& r = w.rows[row];
    return of_head(r.values, kv_head, r.value_head_bytes, r.value_scale_head_bytes);
  }
  int64_t position(int64_t i) const { return w.rows[row].total - w.length + first + i / per_head(); }
  int64_t head(int64_t i) const { return kv_head * per_head() + i % per_head(); }

  bool in_pairs(const TokenRows& side, int64_t width) const {
    return w.fast && attention_pairs().usable && side.bits == 0 && side.type == Float::bf16 && width % 32 == 0;
  }

  // Scaled queries, packed; `space` holds one more unpacked copy.
  void pack(float* to, float* space, bool extra, bool pairs) const {
    const int64_t dim = extra ? w.extra_dim : w.key_dim, item = float_bytes(w.q_type);
    const char* q = static_cast<const char*>(extra ? w.extra_q : w.q);
    for (int64_t i = 0; i < rows(); ++i) {
      int64_t token = first + i / per_head();
      int64_t at = extra ? row * w.extra_q_batch + head(i) * w.extra_q_head + token * w.extra_q_token
                         : row * w.q_batch + head(i) * w.q_head + token * w.q_token;
      kernels.scale(q + at * item, w.q_type, w.scale, dim, space + i * dim);
    }
    (pairs ? attention_pairs().pack_rows : kernels.pack_rows)(space, rows(), dim, to);
  }

  void score_part(const TokenRows& side, bool extra, int64_t begin, int64_t end, float* s, int64_t ld, float* q,
                  float* space, char* tile) const {
    const int64_t dim = extra ? w.extra_dim : w.key_dim;
    const bool pairs = in_pairs(side, dim);
    pack(q, space, extra, pairs);
    (pairs ? attention_pairs().scores : kernels.scores)(side, q, rows(), dim, begin, end, s, ld, tile);
  }

  // Scores of keys [begin, end) into s; q and more are scratch.
  void score(int64_t begin, int64_t end, float* s, int64_t ld, float* q, float* space, float* second,
             char* tile) const {
    score_part(keys(), false, begin, end, s, ld, q, space, tile);
    const TokenRows& extra = w.rows[row].extra;
    if (extra.data != nullptr) {
      score_part(extra, true, begin, end, second, ld, q, space, tile);
      for (int64_t i = 0; i < rows(); ++i) {
        float *a = s + i * ld, *b = second + i * ld;
        for (int64_t k = begin; k < end; ++k) {
          a[k] += b[k];
        }
      }
    }
  }

  // Softmax of s into p, then columns [begin, end) of the output.
  void finish(const float* s, float* p, int64_t ld, int64_t begin, int64_t end, float* acc, float* sums,
              Visible* visible, char* tile) const {
    for (int64_t i = 0; i < rows(); ++i) {
      const float* sink = w.sinks == nullptr ? nullptr : w.sinks + head(i);
      visible[i] = visible_of(w, row, position(i));
      sums[i] = kernels.softmax(s + i * ld, p + i * ld, visible[i], w.softcap, sink);
    }
    const int64_t width = w.value_dim;
    std::memset(acc, 0, static_cast<size_t>(rows() * width) * 4);
    const TokenRows from = values();
    (in_pairs(from, width) ? attention_pairs().values : kernels.values)(from, p, ld, visible, rows(), begin, end,
                                                                            acc, width, tile);
    for (int64_t i = 0; i < rows(); ++i) {
      int64_t token = first + i / per_head();
      int64_t at = row * w.out_batch + head(i) * w.out_head + token * w.out_token + begin;
      kernels.divide(acc + i * width + begin, sums[i], end - begin,
                     static_cast<char*>(w.out) + at * float_bytes(w.out_type), w.out_type);
    }
  }
};

struct ThreadSpace {
  float *q, *space, *second, *acc, *sums;
  Visible* visible;
  char* tile;
};

ThreadSpace thread_space(const AttentionWork& w, const AttentionCut& cut, int64_t rows, char* at) {
  const int64_t dim = std::max(w.key_dim, w.extra_dim);
  ThreadSpace t{};
  t.q = reinterpret_cast<float*>(at);
  t.space = t.q + align16(rows * dim);
  t.acc = t.space + align16(rows * dim);
  t.second = t.acc + align16(rows * w.value_dim);
  t.sums = t.second + (cut.split || w.extra_dim > 0 ? rows * cut.ld : 0);
  t.visible = reinterpret_cast<Visible*>(t.sums + align16(rows));
  t.tile = reinterpret_cast<char*>(t.visible + rows);
  return t;
}

void attend_split(const AttentionWork& w, const AttentionCut& cut, Stages& run, char* shared, char* own) {
  const AttentionKernels& kernels = attention_kernels();
  const int64_t tile = kernels.key_tile, rows = w.length * (w.heads / w.kv_heads);
  float* scores = reinterpret_cast<float*>(shared);
  ThreadSpace space = thread_space(w, cut, rows, own);
  auto first_tile = [&](int64_t b) {
    Visible v = visible_of(w, b, w.rows[b].total - w.length);
    return v.head > 0 ? 0 : v.begin / tile;
  };
  int64_t units = 0;
  for (int64_t b = 0; b < w.batch; ++b) {
    units += ((w.rows[b].total + tile - 1) / tile - first_tile(b)) * w.kv_heads;
  }
  run.each(units, 1, [&](int64_t part_begin, int64_t part_end) {
    int64_t at = 0;
    for (int64_t b = 0; b < w.batch && at < part_end; ++b) {
      int64_t start = first_tile(b), count = (w.rows[b].total + tile - 1) / tile - start;
      for (int64_t h = 0; h < w.kv_heads; ++h, at += count) {
        int64_t from = std::max(part_begin - at, int64_t{0}), to = std::min(part_end - at, count);
        if (from >= to) {
          continue;
        }
        int64_t begin = (start + from) * tile, end = std::min((start + to) * tile, w.rows[b].total);
        if (w.before != nullptr) {
          w.before(w.context, b, h, begin, end);
        }
        Group group{w, kernels, b, h, 0, w.length};
        float* s = scores + (b * w.kv_heads + h) * cut.row_scores;
        group.score(begin, end, s, cut.ld, space.q, space.space, space.second, space.tile);
      }
    }
  });
  // columns of a head are shared only where there are too few heads for an even split
  const int64_t groups = w.batch * w.kv_heads;
  const bool whole = groups % run.size() == 0 || groups >= 8 * run.size();
  const int64_t unit = whole ? w.value_dim : 32, per_group = (w.value_dim + unit - 1) / unit;
  run.each(groups * per_group, 1, [&](int64_t part_begin, int64_t part_end) {
    for (int64_t g = part_begin / per_group; g < groups && g * per_group < part_end; ++g) {
      int64_t begin = std::max(part_begin - g * per_group, int64_t{0}) * unit;
      int64_t end = std::min(std::min(part_end - g * per_group, per_group) * unit, w.value_dim);
      if (begin < end) {
        Group group{w, kernels, g / w.kv_heads, g % w.kv_heads, 0, w.length};
        group.finish(scores + g * cut.row_scores, space.second, cut.ld, begin, end, space.acc, space.sums,
                     space.visible, space.tile);
      }
    }
  });
}

void attend_blocks(const AttentionWork& w, const AttentionCut& cut, Stages& run, char* own) {
  const AttentionKernels& kernels = attention_kernels();
  const int64_t tile = kernels.key_tile, blocks = (w.length + cut.block - 1) / cut.block;
  const int64_t rows = cut.block * (w.heads / w.kv_heads), groups = w.batch * w.kv_heads;
  ThreadSpace space = thread_space(w, cut, rows, own + align16(rows * cut.ld) * 4);
  float* scores = reinterpret_cast<float*>(own);
  run.each(groups * blocks, 1, [&](int64_t part_begin, int64_t part_end) {
    for (int64_t unit = part_begin; unit < part_end; ++unit) {
      // a late block, which sees many keys, after every early one: equal parts take equal time
      int64_t group = unit % groups, i = unit / groups;
      int64_t first = (i % 2 == 0 ? i / 2 : blocks - 1 - i / 2) * cut.block;
      Group g{w, kernels, group / w.kv_heads, group % w.kv_heads, first, std::min(cut.block, w.length - first)};
      Visible oldest = visible_of(w, g.row, g.position(0));
      int64_t begin = oldest.head > 0 ? 0 : oldest.begin / tile * tile;
      g.score(begin, g.position(g.rows() - 1) + 1, scores, cut.ld, space.q, space.space, space.second, space.tile);
      g.finish(scores, scores, cut.ld, 0, w.value_dim, space.acc, space.sums, space.visible, space.tile);
    }
  });
}

}  // namespace

AttentionCut cut_attention(const AttentionWork& w, int threads) {
  const AttentionKernels& kernels = attention_kernels();
  AttentionCut cut{};
  int64_t total = 0;
  for (int64_t b = 0; b < w.batch; ++b) {
    total = std::max(total, w.rows[b].total);
  }
  const int64_t per_head = w.heads / w.kv_heads;
  // an odd number of vectors between rows, so that rows do not fall on one cache set
  cut.ld = (total + kernels.key_tile - 1) / kernels.key_tile * kernels.key_tile + 16;
  int64_t rows = w.length * per_head;
  int64_t fit = std::clamp(block_floats / cut.ld, least_rows, most_rows);
  cut.block = std::min(std::max(fit / per_head, int64_t{1}), w.length);
  int64_t blocks = w.batch * w.kv_heads * ((w.length + cut.block - 1) / cut.block);
  cut.split = rows <= split_rows || (blocks < threads && w.batch * w.heads * w.length * cut.ld < most_shared);
  if (!cut.split) {
    rows = cut.block * per_head;
  }
  const int64_t dim = std::max(w.key_dim, w.extra_dim);
  size_t own = static_cast<size_t>(2 * align16(rows * dim) + align16(rows * w.value_dim) + align16(rows)) * 4 +
      static_cast<size_t>(rows) * sizeof(Visible) + static_cast<size_t>(kernels.scratch_bytes(dim, w.value_dim));
  if (cut.split) {
    cut.row_scores = rows * cut.ld;
    cut.shared_bytes = static_cast<size_t>(w.batch * w.kv_heads * cut.row_scores) * 4;
    own += static_cast<size_t>(rows * cut.ld) * 4;
  } else {
    own += static_cast<size_t>(align16(rows * cut.ld)) * 4;
    own += w.extra_dim > 0 ? static_cast<size_t>(rows * cut.ld) * 4 : 0;
  }
  cut.shared_bytes = (cut.shared_bytes + 127) / 64 * 64;
  cut.thread_bytes = (own + 127) / 64 * 64;
  cut.bytes = cut.shared_bytes + cut.thread_bytes * static_cast<size_t>(threads);
  return cut;
}

void attend(const AttentionWork& work, const AttentionCut& cut, Stages& run, int slot, char* scratch) {
  char* own = scratch + cut.shared_bytes + cut.thread_bytes * static_cast<size_t>(slot);
  if (cut.split) {
    attend_split(work, cut, run, scratch, own);
  } else {
    attend_blocks(work, cut, run, own);
  }
}

}  // namespace mlx_lm
