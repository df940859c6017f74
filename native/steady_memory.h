// Large pages for what every decode step reads: weights, keys and values.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "mlx/array.h"

namespace mlx_lm {

// Asks for pages of 2 MB wherever they fit into [at, at + bytes), whose content stays: the system gathers them in time.
// With pages of 4 KB a decode step spends up to a fifth of its time on finding them (LOG.md).
inline std::pair<void*, size_t> prefer_large_pages(void* at, size_t bytes) {
  constexpr uintptr_t page = uintptr_t{1} << 21;
  const auto start = reinterpret_cast<uintptr_t>(at);
  const uintptr_t begin = (start + page - 1) / page * page, end = (start + bytes) / page * page;
  const std::pair<void*, size_t> inner{reinterpret_cast<void*>(begin), begin < end ? end - begin : 0};
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (inner.second > 0) {
    madvise(inner.first, inner.second, MADV_HUGEPAGE);
  }
#endif
  return inner;
}

// A piece of MLX's memory whose content nobody needs yet, in large pages at once. Small ones that temporaries have left
// there go back to the system, because it gives large ones only where there are none.
class SteadyMemory {
 public:
  explicit SteadyMemory(size_t bytes)
      : left_(bytes), words_({static_cast<int>(bytes / 8 + 8)}, mlx::core::uint64, nullptr, {}) {
    words_.set_data(mlx::core::allocator::malloc(words_.nbytes()));
    char* at = words_.data<char>();
    used_ = (64 - reinterpret_cast<uintptr_t>(at) % 64) % 64;
    [[maybe_unused]] const auto [begin, size] = prefer_large_pages(at, words_.nbytes());
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (size > 0) {
      madvise(begin, size, MADV_DONTNEED);
    }
#endif
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

}  // namespace mlx_lm
