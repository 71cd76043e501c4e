// What is enqueued while a recording is made: held back, with a reference to each storage that it uses.
#ifndef LOWRANK_ADDON_RECORDER_H
#define LOWRANK_ADDON_RECORDER_H
#include <algorithm>
#include <memory>
#include <unordered_set>
#include <vector>

#include "../core/device.h"

namespace lr {

struct Recorder {
  explicit Recorder(Device& device) : device(device) {}
  Recorder(const Recorder&) = delete;
  ~Recorder() {
    for (Storage* storage : storages) storage->forget();
  }

  void hold_back(std::unique_ptr<Record> record, size_t scratch, const std::vector<Storage*>& used) {
    for (Storage* storage : used)
      if (storages.insert(storage).second) storage->record();
    recording->scratch = std::max(recording->scratch, scratch);
    if (device.computes(*record)) recording->records.push_back(std::move(record));
  }

  Device& device;
  const std::shared_ptr<Recording> recording = std::make_shared<Recording>();
  std::unordered_set<Storage*> storages;
};

}  // namespace lr
#endif
