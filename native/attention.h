// Softmax attention of grouped heads over what each sequence keeps, callable from inside a parallel region.
//
// One query's arithmetic is fixed: score = sum over d in order of q[d] * k[d]; the exact maximum over visible keys;
// p = exp(score - maximum), summed in 16 lanes from the first visible key on; out = (sum over visible keys in order
// of p * v) / sum(p). Nothing depends on other queries, on hidden keys, on the split of work or on where a window's
// first key lies in memory: a result is the same to the last bit alone, in any chunk and in any batch.
#pragma once

#include "dispatch.h"
#include "types.h"

namespace mlx_lm {

// Keys or values of one head: tokens x dim, a token's features contiguous.
struct TokenRows {
  const char* data;
  int64_t token_bytes;
  // affine codes when bits > 0: data holds words, scales and biases have `type`
  int bits;
  int group;
  Float type;
  const char* scales;
  const char* biases;
  int64_t scale_token_bytes;
};

// Keys that one query sees: [0, head) and [begin, end).
struct Visible {
  int64_t head;
  int64_t begin;
  int64_t end;
};

inline Visible visible_keys(int64_t position, int64_t window, int64_t keep) {
  int64_t end = position + 1, near = window > 0 && end > window ? end - window : 0;
  if (near == 0) {
    return {0, 0, end};
  }
  int64_t head = keep < end ? keep : end;
  return {head, near > head ? near : head, end};
}

struct AttentionKernels {
  int key_tile;  // scores are computed for this many keys at a time; `scores` writes up to there
  // Query rows (rows, dim) in the order that `scores` reads; `to` as large.
  void (*pack_rows)(const float* q, int64_t rows, int64_t dim, float* to);
  // Bytes of scratch that `scores` and `values` need for heads of this size.
  int64_t (*scratch_bytes)(int64_t key_dim, int64_t value_dim);
  // scores[r * ld + k] = q[r] . keys[k] for keys [begin, end), begin a multiple of key_tile; q from
  // `pack_rows`, scaled. Writes the scores of a whole last tile.
  void (*scores)(const TokenRows& keys, const float* q, int64_t rows, int64_t dim, int64_t begin, int64_t end,
                 float* scores, int64_t ld, char* scratch);
  // p = exp(s - max) over the visible keys, elsewhere untouched; softcap 0 for none; sink null for none. p may be s.
  // Returns the sum.
  float (*softmax)(const float* s, float* p, Visible keys, float softcap, const float* sink);
  // out[r][c] for columns [begin, end) (multiples of 16, or value_dim): out += sum p[r][k] * values[k][c], in order.
  // visible[r] for each row; out (rows, ldo) float32.
  void (*values)(const TokenRows& values, const float* p, int64_t ld, const Visible* visible, int64_t rows,
                 int64_t begin, int64_t end, float* out, int64_t ldo, char* scratch);
  // to[i] = from[i] / divisor, converted.
  void (*divide)(const float* from, float divisor, int64_t n, void* to, Float type);
  // q = scale * x as float32.
  void (*scale)(const void* x, Float type, float scale, int64_t n, float* q);
};
MLX_LM_KERNEL_TABLE(AttentionKernels, attention_kernels)

// The same for bf16 keys and values, with queries and probabilities rounded to bf16 and summed in pairs: half of the
// multiply-adds. Widths are multiples of 32; queries come from this table's pack_rows.
struct AttentionPairs {
  bool usable;  // this instruction set has such products
  void (*pack_rows)(const float* q, int64_t rows, int64_t dim, float* to);
  void (*scores)(const TokenRows& keys, const float* q, int64_t rows, int64_t dim, int64_t begin, int64_t end,
                 float* scores, int64_t ld, char* scratch);
  void (*values)(const TokenRows& values, const float* p, int64_t ld, const Visible* visible, int64_t rows,
                 int64_t begin, int64_t end, float* out, int64_t ldo, char* scratch);
};
MLX_LM_PAIR_TABLE(AttentionPairs, attention_pairs)

// One sequence's row of a batch: its heads are `*_head_bytes` apart.
struct AttentionRow {
  TokenRows keys;
  TokenRows values;
  TokenRows extra;        // second part of the scores (latent attention's rotary keys); data null for none
  int64_t key_head_bytes, key_scale_head_bytes;
  int64_t value_head_bytes, value_scale_head_bytes;
  int64_t total;          // keys; the last `length` are the queries' own
  int64_t window, keep;   // window 0: all
};

struct AttentionWork {
  const AttentionRow* rows;
  int64_t batch, heads, kv_heads, length, key_dim, value_dim, extra_dim;
  float scale, softcap;
  bool fast;              // bf16 keys and values may be multiplied in pairs
  const float* sinks;     // per head, or null
  const void* q;          // strides in elements
  Float q_type;
  int64_t q_batch, q_head, q_token;
  const void* extra_q;    // (batch, heads, length, extra_dim)
  int64_t extra_q_batch, extra_q_head, extra_q_token;
  void* out;
  Float out_type;
  int64_t out_batch, out_head, out_token;
  // In split work: called by the thread that is about to score keys [begin, end) of a head, to write new keys.
  void (*before)(void* context, int64_t row, int64_t kv_head, int64_t begin, int64_t end);
  void* context;
};

#if !defined(MLX_LM_ISA)
class Stages;

// How the work is cut; results do not depend on it.
struct AttentionCut {
  bool split;             // few queries: keys, then columns are shared out
  int64_t block;          // positions per block otherwise
  int64_t ld;             // floats per row of scores
  int64_t row_scores;     // floats of one (row, kv head) in split work
  size_t shared_bytes;
  size_t thread_bytes;
  size_t bytes;           // for all threads
};
AttentionCut cut_attention(const AttentionWork& work, int threads);
// Run by every thread; `slot` numbers the threads. scratch: cut.bytes, 64-aligned.
void attend(const AttentionWork& work, const AttentionCut& cut, Stages& run, int slot, char* scratch);

// Where gradients go: row-major, in the types of what they belong to. Keys and values must not be packed.
struct AttentionGradients {
  const void* out;  // the gradient of the result, strides in elements
  Float out_type;
  int64_t out_batch, out_head, out_token;
  void* queries;                        // (batch, heads, length, key_dim)
  void* const* keys;                    // per row of the batch: (kv_heads, total, key_dim)
  void* const* values;
  const Float *key_types, *value_types;  // per row of the batch
  float* sinks;                         // (batch, heads), zeros before; null without sinks
};
size_t attention_gradient_bytes(const AttentionWork& work);  // of one thread
void attend_backward(const AttentionWork& work, const AttentionGradients& gradients, Stages& run, char* scratch);
#endif

}  // namespace mlx_lm
