// Memory for what every decode step reads (weights, keys and values): on cache lines, in large pages.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#if defined(__GLIBC__)
#include <malloc.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "mlx/array.h"

namespace mlx_lm {

// A piece of MLX's memory whose content nobody needs yet, in pages of 2 MB wherever they fit into it: with pages of
// 4 KB a decode step spends up to a fifth of its time on finding them (LOG.md). Pages that temporaries have left there
// go back to the system first, because it gives large ones only where there are none.
class SteadyMemory {
 public:
  explicit SteadyMemory(size_t bytes) : left_(bytes), words_({static_cast<int>(bytes / 8 + 8)}, mlx::core::uint64, nullptr, {}) {
    words_.set_data(mlx::core::allocator::malloc(words_.nbytes()));
    const auto at = reinterpret_cast<uintptr_t>(words_.data<char>());
    used_ = (64 - at % 64) % 64;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr uintptr_t page = uintptr_t{1} << 21;
    const uintptr_t begin = (at + page - 1) / page * page, end = (at + words_.nbytes()) / page * page;
    if (begin < end && madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE) == 0) {
      madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
    }
#endif
  }

  // For arrays that replace others: what freed arrays have left goes back to the system first, which the C library
  // would keep, so that a model's weights are never there twice.
  static std::shared_ptr<SteadyMemory> replacing(size_t bytes) {
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
    return std::make_shared<SteadyMemory>(bytes);
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
  size_t used_ = 0, left_;
  mlx::core::array words_;
};

// Memory of its own for `out`.
inline void allocate_steady(mlx::core::array& out) {
  SteadyMemory(SteadyMemory::room(out.nbytes())).give(out);
}

}  // namespace mlx_lm
