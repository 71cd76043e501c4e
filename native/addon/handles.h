// Tensors, weights and recordings as numbers: slot (22 bits), type tag (2 bits) and generation (29 bits) in one double. A freed
// handle meets another generation, so use after dispose is a typed error.
#ifndef LOWRANK_ADDON_HANDLES_H
#define LOWRANK_ADDON_HANDLES_H
#include <cstdint>
#include <vector>

#include "../core/device.h"
#include "../core/fault.h"
#include "recorder.h"

namespace lr {

struct TensorEntry {
  static constexpr uint64_t kTag = 0;
  static constexpr const char* kName = "tensor";
  static constexpr const char* kFree = "free";
  Device* device;
  Storage* storage;
  size_t offset, bytes;
  lr_tensor view;
  void drop() { storage->release(); }
};

struct WeightEntry {
  static constexpr uint64_t kTag = 1;
  static constexpr const char* kName = "weight";
  static constexpr const char* kFree = "freeWeight";
  Device* device;
  Storage* storages[6];  // of data, code and statistics; NULL where absent
  lr_weight weight;
  void drop() {
    for (Storage* storage : storages)
      if (storage) storage->release();
  }
};

struct RecordingEntry {
  static constexpr uint64_t kTag = 2;
  static constexpr const char* kName = "recording";
  static constexpr const char* kFree = "freeRecording";
  Device* device;
  std::shared_ptr<Recorder> content;
  void drop() { content.reset(); }
};

template <class Entry>
class HandleTable {
 public:
  // Handles begin at this generation, from 1 to kGenerations / 2: those of another environment are then stale here, not someone else's.
  explicit HandleTable(uint32_t generation) : first_(generation) {}

  double add(const Entry& entry, const char* op) {
    uint32_t slot;
    if (!free_.empty()) {
      slot = free_.back();
      free_.pop_back();
    } else {
      if (slots_.size() > kMaxSlot) LR_THROW(LR_INVALID, op, "more than %u handles of this kind", kMaxSlot);
      slot = static_cast<uint32_t>(slots_.size());
      slots_.push_back({first_, false, entry});
      free_.reserve(slots_.capacity());  // so that remove cannot fail
    }
    slots_[slot].entry = entry;
    slots_[slot].used = true;
    return static_cast<double>((uint64_t{slots_[slot].generation} << kGenerationShift) | (Entry::kTag << kTagShift) | slot);
  }

  Entry& get(double handle, const char* op) { return find(handle, op).entry; }

  void remove(double handle, const char* op) {
    Slot& slot = find(handle, op);
    slot.entry.drop();
    slot.used = false;
    // A slot whose generations are used up stays empty, so that a number never means two things.
    if (++slot.generation < kGenerations) free_.push_back(static_cast<uint32_t>(&slot - slots_.data()));
  }

  void clear() {
    for (Slot& slot : slots_)
      if (slot.used) slot.entry.drop();
    slots_.clear();
    free_.clear();
  }

  // Live handles of one device.
  size_t count(const Device& device) const {
    size_t n = 0;
    for (const Slot& slot : slots_) n += slot.used && slot.entry.device == &device;
    return n;
  }

 private:
  static constexpr int kTagShift = 22, kGenerationShift = 24;
  static constexpr uint64_t kTagMask = 3;
  static constexpr uint32_t kGenerations = 1u << 29;

  struct Slot {
    uint32_t generation;
    bool used;
    Entry entry;
  };
  static constexpr uint32_t kMaxSlot = (1u << 22) - 1;

  Slot& find(double handle, const char* op) {
    if (!(handle > 0 && handle < 9007199254740992.0)) LR_THROW(LR_INVALID, op, "%g is not the handle of a %s", handle, Entry::kName);
    const uint64_t bits = static_cast<uint64_t>(handle);
    const uint32_t slot = static_cast<uint32_t>(bits & kMaxSlot);
    if (static_cast<double>(bits) != handle || ((bits >> kTagShift) & kTagMask) != Entry::kTag || slot >= slots_.size())
      LR_THROW(LR_INVALID, op, "%.0f is not the handle of a %s", handle, Entry::kName);
    if (!slots_[slot].used || slots_[slot].generation != bits >> kGenerationShift) LR_THROW(kDisposed, op, "this %s was disposed", Entry::kName);
    return slots_[slot];
  }

  const uint32_t first_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
};

}  // namespace lr
#endif
