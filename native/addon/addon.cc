// The addon's entry: state per environment, devices, and the functions that describe them.
#include "../cpu/backend.h"
#include "environment.h"

namespace lr {
namespace {

void set(Call& call, napi_value object, const char* name, napi_value value) { call.check(napi_set_named_property(call.env, object, name, value)); }

napi_value object(Call& call) {
  napi_value value;
  call.check(napi_create_object(call.env, &value));
  return value;
}

napi_value open_device_js(napi_env env, napi_callback_info info) {
  return guarded(env, info, "openDevice", [](Call& call) {
    call.arity(1);
    return call.from(open_device(call.string(0)).number);
  });
}

napi_value open_plugin_js(napi_env env, napi_callback_info info) {
  return guarded(env, info, "openPlugin", [](Call& call) {
    call.arity(2);
    return call.from(open_plugin(call.string(0), call.string(1)).number);
  });
}

napi_value device_info(napi_env env, napi_callback_info info) {
  return guarded(env, info, "deviceInfo", [](Call& call) {
    call.arity(1);
    const Device& device = call.device(0);
    napi_value result = object(call), bf16;
    call.check(napi_get_boolean(call.env, device.backend.bf16 != 0, &bf16));
    set(call, result, "isa", call.from(std::string(device.backend.name)));
    set(call, result, "threads", call.from(device.stream.threads()));
    set(call, result, "bf16", bf16);
    napi_value separate;
    call.check(napi_get_boolean(call.env, device.backend.separate != 0, &separate));
    set(call, result, "separate", separate);
    return result;
  });
}

napi_value memory(napi_env env, napi_callback_info info) {
  return guarded(env, info, "memory", [](Call& call) {
    call.arity(1);
    const Device& device = call.device(0);
    const MemoryStats stats = device.memory.stats(), host = device.host.stats();
    napi_value result = object(call);
    set(call, result, "live", call.from(static_cast<double>(stats.live)));
    set(call, result, "peak", call.from(static_cast<double>(stats.peak)));
    set(call, result, "pooled", call.from(static_cast<double>(stats.pooled + host.pooled)));
    set(call, result, "host", call.from(static_cast<double>(host.live)));
    set(call, result, "hostPeak", call.from(static_cast<double>(host.peak)));
    set(call, result, "scratch", call.from(static_cast<double>(stats.scratch)));
    set(call, result, "held", call.from(static_cast<double>(stats.held)));
    set(call, result, "mostHeld", call.from(static_cast<double>(stats.most_held)));
    set(call, result, "tensors", call.from(static_cast<double>(call.environment.tensors.count(device))));
    return result;
  });
}

napi_value reset_peak(napi_env env, napi_callback_info info) {
  return guarded(env, info, "resetPeak", [](Call& call) {
    call.arity(1);
    Device& device = call.device(0);
    device.memory.reset_peak();
    device.host.reset_peak();
    return call.undefined();
  });
}

napi_value limit_memory(napi_env env, napi_callback_info info) {
  return guarded(env, info, "limitMemory", [](Call& call) {
    call.arity(2);
    const int64_t bytes = call.integer(1, 0, int64_t{1} << 53);
    call.device(0).memory.set_limit(bytes == 0 ? SIZE_MAX : static_cast<size_t>(bytes));
    return call.undefined();
  });
}

napi_value trim(napi_env env, napi_callback_info info) {
  return guarded(env, info, "trim", [](Call& call) {
    call.arity(1);
    call.device(0).trim();
    return call.undefined();
  });
}

napi_value available_isas(napi_env env, napi_callback_info info) {
  return guarded(env, info, "availableIsas", [](Call& call) {
    call.arity(0);
    napi_value names;
    call.check(napi_create_array(call.env, &names));
    const char* const* variants = lr_cpu_variants();
    for (uint32_t i = 0; variants[i]; i++) call.check(napi_set_element(call.env, names, i, call.from(std::string(variants[i]))));
    return names;
  });
}

napi_value fail_allocation(napi_env env, napi_callback_info info) {
  return guarded(env, info, "failAllocation", [](Call& call) {
    call.arity(1);
    Memory::fail_allocation(call.integer(0, 0, INT32_MAX));
    return call.undefined();
  });
}

napi_value profile(napi_env env, napi_callback_info info) {
  return guarded(env, info, "profile", [](Call& call) {
    call.arity(2);
    Device& device = call.device(0);
    device.stream.profile(call.boolean(1));
    OpTime times[kMaxOps];
    device.stream.take_profile(times);
    napi_value result = object(call);
    for (int op = 0; op < kMaxOps; op++) {
      if (!times[op].calls) continue;
      napi_value row = object(call);
      set(call, row, "calls", call.from(static_cast<double>(times[op].calls)));
      set(call, row, "ms", call.from(static_cast<double>(times[op].nanoseconds) / 1e6));
      set(call, result, op_name(op), row);
    }
    return result;
  });
}

// Runs before Node tears the environment down: no completion arrives after it, and all its memory is back in the pool.
void close_environment(void* data) {
  Environment* environment = static_cast<Environment*>(data);
  environment->waiter->close();
  environment->recordings.clear();
  environment->weights.clear();
  environment->tensors.clear();
}

// Nothing here may assume that it succeeds: a worker can be terminated while it loads the addon.
napi_value init(napi_env env, napi_value exports) {
  return guarded(env, "load", [&] {
    auto environment = std::make_unique<Environment>(env);
    // These two cannot fail; from here on the environment's end settles everything.
    napi_set_instance_data(env, environment.get(), [](napi_env, void* data, void*) { delete static_cast<Environment*>(data); }, nullptr);
    napi_add_env_cleanup_hook(env, close_environment, environment.release());
    napi_value abi = nullptr;
    require_alive(napi_create_uint32(env, LR_ABI_VERSION, &abi), "load");
    require_alive(napi_set_named_property(env, exports, "abi", abi), "load");
    define(env, exports, "openDevice", open_device_js);
    define(env, exports, "openPlugin", open_plugin_js);
    define(env, exports, "deviceInfo", device_info);
    define(env, exports, "memory", memory);
    define(env, exports, "limitMemory", limit_memory);
    define(env, exports, "resetPeak", reset_peak);
    define(env, exports, "trim", trim);
    define(env, exports, "availableIsas", available_isas);
    define(env, exports, "failAllocation", fail_allocation);
    define(env, exports, "profile", profile);
    define_tensors(env, exports);
    define_weights(env, exports);
    define_transfers(env, exports);
    define_recordings(env, exports);
    define_kernels(env, exports);
    return exports;
  });
}

}  // namespace
}  // namespace lr

NAPI_MODULE_INIT() { return lr::init(env, exports); }
