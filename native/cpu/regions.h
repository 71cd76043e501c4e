// Blocks smaller than a huge page, cut out of regions of huge pages: fewer TLB misses when a token walks hundreds of weights.
//
// A model below a billion parameters has its weights in blocks of 50 KB to 2 MB, which malloc puts on pages of 4 KiB. The pool
// above (core/memory.h) keeps blocks and asks seldom, so first fit over a map of bits serves; ranges given back side by side
// are one again, and a region that holds nothing goes back to the system.
#ifndef LOWRANK_CPU_REGIONS_H
#define LOWRANK_CPU_REGIONS_H
#include <bitset>
#include <cstddef>
#include <map>
#include <mutex>

namespace lr {

// At least `bytes` on a boundary of a huge page, to be given to free(); NULL: there is no memory.
void* huge_pages(size_t bytes) noexcept;

class Regions {
 public:
  static constexpr size_t kHugePage = size_t{2} << 20;
  static constexpr size_t kBytes = 4 * kHugePage, kUnit = 4096, kUnits = kBytes / kUnit;

  // `bytes` of 1 to kBytes on a boundary of kUnit; NULL: there is no memory.
  void* take(size_t bytes) noexcept;
  // What take gave for as many bytes.
  void give_back(void* data, size_t bytes) noexcept;
  size_t regions() const;

 private:
  struct Region {
    std::bitset<kUnits> used;
    size_t free = kUnits;
    // The first of `units` free ones in a row, or kUnits.
    size_t find(size_t units) const;
    void mark(size_t first, size_t units, bool as_used);
  };
  mutable std::mutex mutex_;
  std::map<char*, Region> regions_;  // by address
};

}  // namespace lr
#endif
