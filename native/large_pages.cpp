#include "large_pages.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "bind.h"
#include "mlx/array.h"

namespace mlx_lm {

#if defined(__linux__) && defined(MADV_HUGEPAGE)
namespace {

#if !defined(MADV_COLLAPSE)
#define MADV_COLLAPSE 25
#endif

constexpr uintptr_t page_bytes = uintptr_t{1} << 21;
constexpr std::chrono::milliseconds patience{250};  // a process that has just started has better things to do
// More than that a page takes where the system first has to find memory for it; everybody who asks for memory waits. A
// small model is through with it soon, a large one takes its time.
constexpr std::chrono::milliseconds dear{2};
constexpr size_t few = 64;

// Moves content into large pages, page by page. Reading and writing go on meanwhile.
class Gatherer {
 public:
  void add(const std::vector<uintptr_t>& pages) {
    const std::lock_guard<std::mutex> lock(mutex_);
    waiting_.insert(waiting_.end(), pages.begin(), pages.end());
    if (!running_ && !waiting_.empty()) {
      running_ = true;
      std::thread([this] { work(); }).detach();
    }
  }

  void rest(int more) {
    const std::lock_guard<std::mutex> lock(mutex_);
    resting_ += more;
    go_on_.notify_one();
  }

 private:
  void work() {
    pthread_setname_np(pthread_self(), "mlx_lm pages");
    std::this_thread::sleep_for(patience);
    while (const uintptr_t page = next()) {
      const auto start = std::chrono::steady_clock::now();
      void* at = reinterpret_cast<void*>(page * page_bytes);
      if (madvise(at, page_bytes, MADV_COLLAPSE) != 0) {
        madvise(at, page_bytes, MADV_HUGEPAGE);  // an older system, or none is free
      }
      const auto took = std::chrono::steady_clock::now() - start;
      std::this_thread::sleep_for((took > dear && left() > few ? 24 : 3) * took);
    }
  }

  size_t left() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return waiting_.size();
  }

  // 0 when nothing is left, and the thread ends.
  uintptr_t next() {
    std::unique_lock<std::mutex> lock(mutex_);
    go_on_.wait(lock, [this] { return resting_ == 0; });
    if (waiting_.empty()) {
      running_ = false;
      return 0;
    }
    const uintptr_t page = waiting_.front();
    waiting_.pop_front();
    return page;
  }

  std::mutex mutex_;
  std::condition_variable go_on_;
  std::deque<uintptr_t> waiting_;
  int resting_ = 0;  // prompts that are being computed
  bool running_ = false;
};

// Never destroyed: its thread may run until the process is gone. The child of a fork has no such thread, so a new one.
Gatherer*& gatherer() {
  static Gatherer* made = [] {
    pthread_atfork(nullptr, nullptr, [] { gatherer() = new Gatherer; });
    return new Gatherer;
  }();
  return made;
}

}  // namespace

void large_pages_at_once(void* at, size_t bytes) {
  const auto start = reinterpret_cast<uintptr_t>(at);
  const uintptr_t first = (start + page_bytes - 1) / page_bytes, last = (start + bytes) / page_bytes;
  if (first < last) {
    void* begin = reinterpret_cast<void*>(first * page_bytes);
    madvise(begin, (last - first) * page_bytes, MADV_HUGEPAGE);
    madvise(begin, (last - first) * page_bytes, MADV_DONTNEED);
  }
}

void large_pages_later(const std::vector<std::pair<const void*, size_t>>& spans) {
  std::map<uintptr_t, size_t> covered;
  for (const auto& [at, bytes] : spans) {
    const auto begin = reinterpret_cast<uintptr_t>(at), end = begin + bytes;
    for (uintptr_t from = begin; from < end;) {
      const uintptr_t page = from / page_bytes, to = std::min(end, (page + 1) * page_bytes);
      covered[page] += to - from;
      from = to;
    }
  }
  std::vector<uintptr_t> pages;
  for (const auto& [page, bytes] : covered) {
    if (bytes >= page_bytes / 2) {
      pages.push_back(page);
    }
  }
  gatherer()->add(pages);
}

LargePagesRest::LargePagesRest(bool wanted) : wanted_(wanted) {
  if (wanted_) {
    gatherer()->rest(1);
  }
}

LargePagesRest::~LargePagesRest() {
  if (wanted_) {
    gatherer()->rest(-1);
  }
}
#else
LargePagesRest::LargePagesRest(bool wanted) : wanted_(wanted) {}
LargePagesRest::~LargePagesRest() = default;
void large_pages_at_once(void*, size_t) {}
void large_pages_later(const std::vector<std::pair<const void*, size_t>>&) {}
#endif

}  // namespace mlx_lm

MLX_LM_BIND(m) {
  using namespace nanobind::literals;
  m.def("large_pages_later", [](const std::vector<mlx::core::array>& arrays) {
    std::vector<std::pair<const void*, size_t>> spans;
    for (const auto& a : arrays) {
      if (a.is_available()) {
        spans.emplace_back(a.data<char>(), a.nbytes());
      }
    }
    mlx_lm::large_pages_later(spans);
  }, "arrays"_a);
}
