#include "regions.h"

#include <cstdlib>
#include <iterator>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace lr {
namespace {

size_t units_of(size_t bytes) { return (bytes + Regions::kUnit - 1) / Regions::kUnit; }

}  // namespace

void* huge_pages(size_t bytes) noexcept {
  void* data = nullptr;
  if (posix_memalign(&data, Regions::kHugePage, bytes)) return nullptr;
#if defined(MADV_HUGEPAGE)
  madvise(data, bytes, MADV_HUGEPAGE);
#endif
  return data;
}

size_t Regions::Region::find(size_t units) const {
  size_t first = 0;
  if (free >= units)
    for (size_t i = 0; i < kUnits; i++) {
      if (used[i]) first = i + 1;
      else if (i + 1 - first == units) return first;
    }
  return kUnits;
}

void Regions::Region::mark(size_t first, size_t units, bool as_used) {
  for (size_t i = first; i < first + units; i++) used[i] = as_used;
  free = as_used ? free - units : free + units;
}

void* Regions::take(size_t bytes) noexcept {
  const size_t units = units_of(bytes);
  std::lock_guard<std::mutex> lock(mutex_);
  for (auto& [start, region] : regions_)
    if (const size_t first = region.find(units); first < kUnits) {
      region.mark(first, units, true);
      return start + first * kUnit;
    }
  char* const fresh = static_cast<char*>(huge_pages(kBytes));
  if (!fresh) return nullptr;
  try {
    regions_[fresh].mark(0, units, true);
  } catch (const std::bad_alloc&) {
    std::free(fresh);
    return nullptr;
  }
  return fresh;
}

void Regions::give_back(void* data, size_t bytes) noexcept {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = std::prev(regions_.upper_bound(static_cast<char*>(data)));
  found->second.mark((static_cast<char*>(data) - found->first) / kUnit, units_of(bytes), false);
  if (found->second.free < kUnits) return;
  std::free(found->first);
  regions_.erase(found);
}

size_t Regions::regions() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return regions_.size();
}

}  // namespace lr
