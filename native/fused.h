// A run of decoder layers as one graph node: the plan that Python fills in, and the buffers it writes.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "elementwise.h"
#include "linear.h"
#include "primitive.h"
#include "steady_memory.h"

namespace mlx_lm {

// Tokens (B, H, capacity, D) that fused steps write in place. Python gives the array away while it is here, so no
// other array shares its memory; whoever wants it back evaluates the pending steps first.
class TokenStore {
 public:
  // In `memory` where it fits; null: in memory of its own.
  static std::shared_ptr<TokenStore> allocate(mx::Shape shape, mx::Dtype type, SteadyMemory* memory = nullptr);
  // Takes an evaluated array; copies it when its memory is shared or not row-contiguous.
  static std::shared_ptr<TokenStore> adopt(const mx::array& a);
  explicit TokenStore(mx::array a) : array_(std::move(a)) {}
  // More room; the first `length` tokens are kept. No step may be pending.
  void grow(int capacity, int length, SteadyMemory* memory = nullptr);
  int capacity() const { return array_.shape(2); }
  const mx::array& array() const { return array_; }

 private:
  mx::array array_;
};

struct FusedNorm {
  std::vector<float> weight;
  float eps = 0;
  bool there = false;
};

// A linear layer; holds the arrays that `matrix` points into.
struct FusedLinear {
  Matrix matrix{};
  std::vector<mx::array> arrays;
  std::vector<float> bias;
  bool there = false;
};

struct FusedRope {
  std::vector<float> inverse;  // per pair of features: radians per position
  float scale = 1;
  bool traditional = false;
  bool operator==(const FusedRope& o) const = default;
};

struct FusedLayer {
  FusedNorm pre_mixer, post_mixer, pre_feed_forward, post_feed_forward, q_norm, k_norm;
  FusedLinear qkv[3];  // q, k, v; or all in the first
  FusedLinear out, gate, up, down;
  std::vector<float> sinks;
  FusedRope rope;  // inverse empty: none
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 1, softcap = 0, residual_scale = 1;
  bool qk_norm_full = false;
  Act act = Act::silu;
  int rope_index = -1;
};

struct FusedPlan {
  std::vector<FusedLayer> layers;
  std::vector<FusedRope> ropes;  // the distinct ones
  FusedNorm final_norm;
  int64_t hidden = 0;
  void add(FusedLayer layer);
};

// What one step works on: keys and values of layer l, state s at [l * states + s].
struct FusedStates {
  std::vector<std::shared_ptr<TokenStore>> keys, values;
  std::vector<int> lengths;    // tokens in the store before this step
  std::vector<int> windows;    // 0: all
  std::vector<int> keeps;
  std::vector<int> positions;  // per row of the batch: the first new token's
};

// x and y: (batch * length, hidden).
struct FusedStep {
  const FusedPlan* plan;
  const FusedStates* states;
  bool fast;
  int64_t batch, length;
  const char* x;
  Float x_type;
  char* y;
  Float y_type;
};
void run_fused(const FusedStep& step);

}  // namespace mlx_lm
