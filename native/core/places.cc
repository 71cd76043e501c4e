#include "places.h"

#include <algorithm>

#include "platform.h"

namespace lr {

Places::Places(int threads) : places_(static_cast<size_t>(threads)), enough_(threads <= available_cores()) {}

void Places::note(int32_t thread) {
  places_[static_cast<size_t>(thread)].core.store(current_core(), std::memory_order_relaxed);
}

void Places::begin_task(int32_t thread) {
  note(thread);
  Place& place = places_[static_cast<size_t>(thread)];
  place.id.store(thread_id(), std::memory_order_relaxed);
  place.task.store(kHeld, std::memory_order_release);
}

void Places::lend() {
  if (!enough_) return;
  for (Place& place : places_) {
    Task held = kHeld;
    if (!place.task.compare_exchange_strong(held, kMoved, std::memory_order_acquire)) continue;
    move_thread(place.id.load(std::memory_order_relaxed), current_core());
    return;
  }
}

void Places::leave(int32_t thread) {
  note(thread);
  const int here = places_[static_cast<size_t>(thread)].core.load(std::memory_order_relaxed);
  if (!enough_ || here != places_[0].core.load(std::memory_order_relaxed)) return;
  const auto taken = [this](int core) {
    return std::any_of(places_.begin(), places_.end(), [=](const Place& place) { return place.core.load(std::memory_order_relaxed) == core; });
  };
  int core = here;
  for (size_t tries = 0; tries < places_.size() && taken(core); tries++) core = next_core(core);
  if (core != here) move_thread(thread_id(), core);
}

}  // namespace lr
