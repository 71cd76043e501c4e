// Ops that a callback enqueues, held back, and enqueued again and again by one call each.
#include "environment.h"

namespace lr {
namespace {

napi_value record(napi_env env, napi_callback_info info) {
  return guarded(env, info, "record", [](Call& call) {
    call.arity(2);
    Device& device = call.device(0);
    const napi_value body = call.function(1);
    Environment& environment = call.environment;
    if (environment.recorder) LR_THROW(LR_INVALID, call.op, "a recording is being made");
    const auto recorder = std::make_shared<Recorder>(device);
    environment.recorder = recorder.get();
    const napi_status status = napi_call_function(call.env, call.undefined(), body, 0, nullptr, nullptr);
    environment.recorder = nullptr;
    call.check(status);
    return call.from(environment.recordings.add({&device, recorder}, call.op));
  });
}

napi_value replay(napi_env env, napi_callback_info info) {
  return guarded(env, info, "replay", [](Call& call) {
    call.arity(1);
    const RecordingEntry& entry = call.environment.recordings.get(call.number(0), call.op);
    Device& device = *entry.device;
    // Of a token they are some 900, all cold by now: they are looked at only where there is something to see.
    if (device.memory.filling() || device.host.filling())
      for (Storage* storage : entry.content->storages) call.refuse_filling(storage);
    call.enqueue(device, std::make_unique<Replay>(device.stream, entry.content->recording), entry.content->recording->scratch);
    return call.undefined();
  });
}

}  // namespace

void define_recordings(napi_env env, napi_value exports) {
  define(env, exports, "record", record);
  define(env, exports, "replay", replay);
  define_free<RecordingEntry, &Environment::recordings>(env, exports);
}

}  // namespace lr
