// Large pages for what every decode step reads: weights, keys and values. With pages of 4 KB a decode step spends up to a
// quarter of its time on finding them (LOG.md).
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

namespace mlx_lm {

// Memory whose content nobody needs yet gets pages of 2 MB, wherever they fit, as it is written. Small ones that earlier
// content has left there go back to the system, because it gives large ones only where there are none. A large page costs
// about a millisecond when it is first written.
void large_pages_at_once(void* at, size_t bytes);

// Pages of 2 MB for those that are at least half covered by the given memory, whose content stays: a little later and one
// by one, on a thread that takes a quarter of a core's time, or less where pages are dear; where the system cannot, it is
// left to do so in its own time. The memory may be freed or used for something else meanwhile.
void large_pages_later(const std::vector<std::pair<const void*, size_t>>& spans);

// Nothing is moved while one of these with `wanted` exists: a prompt is computed, and no page has to wait for its content.
class LargePagesRest {
 public:
  explicit LargePagesRest(bool wanted);
  LargePagesRest(const LargePagesRest&) = delete;
  LargePagesRest& operator=(const LargePagesRest&) = delete;
  ~LargePagesRest();

 private:
  const bool wanted_;
};

}  // namespace mlx_lm
