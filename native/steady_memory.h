// One allocation for arrays that are read together, in large pages.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mutex>

#include "large_pages.h"
#include "mlx/array.h"

namespace mlx_lm {

// A piece of MLX's memory whose content nobody needs yet.
class SteadyMemory {
 public:
  SteadyMemory(size_t bytes, bool at_once)
      : at_once_(at_once), left_(bytes),
        words_({static_cast<int>(bytes / 4096 + 2), 512}, mlx::core::uint64, nullptr, {}) {
    words_.set_data(mlx::core::allocator::malloc(words_.nbytes()));
    used_ = (64 - reinterpret_cast<uintptr_t>(words_.data<char>()) % 64) % 64;
    if (at_once) {
      large_pages_at_once(words_.data<char>(), words_.nbytes());
    }
  }

  // Its arrays are written: it gets large pages in time, if not at once.
  void settle() const {
    if (!at_once_) {
      large_pages_later({{words_.data<char>(), used_}});
    }
  }

  // Bytes that an array takes here.
  static size_t room(size_t bytes) { return (bytes + 63) / 64 * 64; }

  // Gives `out` the next part, or nothing when it does not fit. All arrays share one allocation.
  bool give(mlx::core::array& out) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const size_t bytes = room(out.nbytes());
    if (bytes > left_) {
      return false;
    }
    const auto largest = out.shape().empty() ? 1 : *std::max_element(out.shape().begin(), out.shape().end());
    mlx::core::array::Flags flags{};
    flags.contiguous = flags.row_contiguous = true;
    flags.col_contiguous = out.size() <= 1 || out.size() == static_cast<size_t>(largest);
    out.copy_shared_buffer(words_, out.strides(), flags, out.size(), static_cast<int64_t>(used_ / out.itemsize()));
    used_ += bytes;
    left_ -= bytes;
    return true;
  }

 private:
  std::mutex mutex_;
  const bool at_once_;
  size_t used_ = 0, left_;
  mlx::core::array words_;
};

}  // namespace mlx_lm
