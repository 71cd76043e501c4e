// Devices are process-wide and never destroyed: worker threads share them, and their streams outlive every environment.
#ifndef LOWRANK_CORE_DEVICE_H
#define LOWRANK_CORE_DEVICE_H
#include <string>

#include "../abi/backend.h"
#include "memory.h"
#include "stream.h"

namespace lr {

struct Device {
  const int number;
  const std::string name;
  const lr_backend& backend;
  Stream stream;
  Memory memory;
  const bool dry;  // nothing is computed: memory is only counted
  Memory host;  // of the host, for transfers in the background; where the backend has none of its own, as `memory`

  // Enqueues a record that needs `scratch` bytes of the stream's scratch; throws LR_OUT_OF_MEMORY.
  Ticket enqueue(std::unique_ptr<Record> record, size_t scratch = 0);
  // Whether a record does anything here: ops do not on a dry device.
  bool computes(const Record& record) const { return !dry || record.op < 0; }
  // Gives cached memory back to the system.
  void trim();

  Device(int number, std::string name, const lr_backend& backend, int threads, size_t limit, bool dry);

 private:
  std::mutex scratch_mutex_;
};

// "cpu", "cpu:<isa>" or "cpu:<isa>:<threads>"; what the name leaves open comes from LOWRANK_ISA and LOWRANK_THREADS, else the best
// variant and all cores. LOWRANK_MEMORY_LIMIT bounds the memory of each device. Throws a Fault; LR_DEVICE: the system grants no threads.
// "dry:" before a name: a device that asks the same entries for their scratch and counts memory, but has none and computes nothing.
Device& open_device(const std::string& name);
// The device `name` that the plugin, a shared library at `path`, brings. Throws LR_DEVICE, which says why it cannot be used.
Device& open_plugin(const std::string& name, const std::string& path);
// NULL when there is no device of that number.
Device* find_device(int number);

}  // namespace lr
#endif
