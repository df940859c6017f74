// Memory of fused steps and the prepared inputs of their products.
#pragma once

#include "fused.h"

namespace mlx_lm {

// Hands out 64-byte aligned pieces of one allocation; with a null base it only counts.
struct Arena {
  char* base;
  size_t used = 0;
  template <class T>
  T* take(int64_t count) {
    T* at = reinterpret_cast<T*>(base + used);
    used += align64(static_cast<size_t>(count) * sizeof(T));
    return base == nullptr ? nullptr : at;
  }
};

// The input of one or more matrices, in the forms that they read.
class Input {
 public:
  static constexpr int most = 3;

  // Distinct forms among `matrices`, laid out in `space`.
  void plan(const FusedLinear* const* matrices, int count, bool fast, int64_t rows, Arena& space) {
    forms_ = 0;
    for (int i = 0; i < count; ++i) {
      const Matrix& m = matrices[i]->matrix;
      if (form_of(m) < 0) {
        Activation kind = activation_for(m, fast);
        char* at = space.take<char>(static_cast<int64_t>(rows_bytes(m, kind, rows)));
        matrix_[forms_] = &m;
        rows_[forms_++] = at == nullptr ? rows_shape(m, kind, rows) : lay_out_rows(m, kind, rows, at);
      }
    }
  }
  const Rows& rows(const Matrix& m) const { return rows_[form_of(m)]; }
  int forms() const { return forms_; }
  const Matrix& matrix(int form) const { return *matrix_[form]; }
  const Rows& rows_at(int form) const { return rows_[form]; }
  void fetch(Ahead* ahead) {
    for (int i = 0; i < forms_; ++i) rows_[i].ahead = ahead;
  }
  bool ready = false;

 private:
  int form_of(const Matrix& m) const {
    for (int i = 0; i < forms_; ++i) {
      if (same_rows(*matrix_[i], m)) {
        return i;
      }
    }
    return -1;
  }
  const Matrix* matrix_[most];
  Rows rows_[most];
  int forms_ = 0;
};

// Memory of a step: what threads share, and what one thread has for itself.
struct Shared {
  float *x, *qkv, *rotated, *attended, *product, *angles;
  char *input, *hidden, *attention;
  size_t input_bytes, hidden_bytes;
};
struct Own {
  float *row, *strip, *strip2, *rotated;
  char* input;
  int slot;
};

}  // namespace mlx_lm
