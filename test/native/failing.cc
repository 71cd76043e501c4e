// A plugin whose device fails: it has memory, but nothing goes in or out, and `fill`, `linear` and `copy`, by which it is lost, are its only
// ops. Its errors name no op.
#include <cstdlib>

#include "../../native/abi/backend.h"

namespace {

lr_error gone() { return {LR_DEVICE, nullptr, "the device is gone"}; }

constexpr lr_backend make() {
  lr_backend table{};
  table.abi = LR_ABI_VERSION;
  table.size = sizeof(lr_backend);
  table.name = "failing";
  table.alloc = [](size_t bytes, lr_error*) { return std::aligned_alloc(64, (bytes + 63) / 64 * 64); };
  table.release = [](void* data, size_t) { std::free(data); };
  table.separate = 1;
  table.upload = [](lr_queue*, void*, const void*, size_t) { return gone(); };
  table.download = [](lr_queue*, void*, const void*, size_t) { return gone(); };
  table.fill = [](lr_queue*, lr_tensor, double) { return gone(); };
  table.linear = [](lr_queue*, const lr_linear_group*) { return gone(); };
  table.copy = [](lr_queue*, lr_tensor, lr_tensor) -> lr_error { return {LR_DEVICE_LOST, nullptr, "the device is lost"}; };
  return table;
}
const lr_backend table = make();

}  // namespace

extern "C" __attribute__((visibility("default"))) const lr_backend* lr_backend_open(int32_t, lr_error*) { return &table; }
