// A parallel region as a sequence of stages, shared out in one of two ways: fixed halves with a barrier (fastest when
// every thread has a core) or chunks claimed by whoever is free (Phases: nobody waits for a thread that is not running).
#pragma once

#include "pool.h"

namespace mlx_lm {

class Stages {
 public:
  explicit Stages(Team& team) : team_(&team) {}
  explicit Stages(Phases& phases) : phases_(&phases) {}
  int size() const { return team_ != nullptr ? team_->size() : phases_->size(); }
  // This thread's part of 0..count where shares are fixed, else that of slot `slot`: what it will most likely be given.
  Range share(int64_t count, int slot) const {
    return team_ != nullptr ? team_->share(count) : Range{count * slot / size(), count * (slot + 1) / size()};
  }

  // body(begin, end) covers 0..count, begin a multiple of unit; returns when all of it is done.
  template <class Body>
  void each(int64_t count, int64_t unit, Body&& body) {
    if (team_ == nullptr) {
      phases_->each(count, unit, body);
      return;
    }
    Range part = team_->share(count, unit);
    if (part.begin < part.end) {
      body(part.begin, part.end);
    }
    team_->barrier();
  }

 private:
  Team* team_{nullptr};
  Phases* phases_{nullptr};
};

// Whether the threads of this process have had their cores to themselves lately. Fixed shares make a decode step 20-25%
// faster then (3.6 against 4.6 ms on two cores), and several times slower when a thread is waited for that the
// scheduler has put aside.
bool undisturbed();

template <class Body>
void parallel_stages(bool fixed, Body&& body, int max_threads = 1 << 20) {
  if (fixed) {
    parallel([&](Team& team) {
      Stages stages(team);
      body(stages);
    }, max_threads);
  } else {
    parallel_phases([&](Phases& phases) {
      Stages stages(phases);
      body(stages);
    }, max_threads);
  }
}

}  // namespace mlx_lm
