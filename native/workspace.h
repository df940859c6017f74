// Scratch memory for one task on the calling thread: kept between calls, 64-byte aligned, not initialised.
#pragma once

#include <cstdlib>
#include <new>

namespace mlx_lm {

class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { std::free(data_); }

  char* get(size_t bytes) {
    constexpr size_t keep = size_t{64} << 20;  // a long prefill must not hold its scratch for ever
    bytes = (bytes + 4095) / 4096 * 4096;
    if (bytes > size_ || (size_ > keep && bytes <= keep)) {
      std::free(data_);
      size_ = 0;
      data_ = static_cast<char*>(std::aligned_alloc(4096, bytes == 0 ? 4096 : bytes));
      if (data_ == nullptr) {
        throw std::bad_alloc();
      }
      size_ = bytes;
    }
    return data_;
  }

 private:
  char* data_{nullptr};
  size_t size_{0};
};

// Valid until the next call on this thread.
inline char* workspace(size_t bytes) {
  static thread_local Workspace space;
  return space.get(bytes);
}

}  // namespace mlx_lm
