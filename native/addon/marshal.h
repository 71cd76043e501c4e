// From the C signature of a table entry to a JavaScript function: which argument is read how follows from its type.
#ifndef LOWRANK_ADDON_MARSHAL_H
#define LOWRANK_ADDON_MARSHAL_H
#include <tuple>
#include <vector>

#include "environment.h"

namespace lr {

// Reads argument i of a call, owns what it points to, gives it to the entry when the record runs.
template <class T>
struct Arg;

template <>
struct Arg<lr_tensor> {
  lr_tensor value;
  void read(Call& call, size_t i) { value = call.tensor(call.number(i)); }
  lr_tensor get() const { return value; }
};

template <>
struct Arg<float> {
  float value;
  void read(Call& call, size_t i) { value = static_cast<float>(call.number(i)); }
  float get() const { return value; }
};

template <>
struct Arg<double> {
  double value;
  void read(Call& call, size_t i) { value = call.number(i); }
  double get() const { return value; }
};

template <>
struct Arg<int32_t> {
  int32_t value;
  void read(Call& call, size_t i) { value = static_cast<int32_t>(call.integer(i, INT32_MIN, INT32_MAX)); }
  int32_t get() const { return value; }
};

template <>
struct Arg<uint64_t> {
  uint64_t value;
  void read(Call& call, size_t i) { value = call.bigint(i); }
  uint64_t get() const { return value; }
};

template <>
struct Arg<const lr_weight*> {
  lr_weight value;
  void read(Call& call, size_t i) { value = call.weight(call.number(i)); }
  const lr_weight* get() const { return &value; }
};

template <>
struct Arg<const lr_linear_group*> {
  lr_linear_group value{};
  std::vector<lr_linear> layers;
  std::vector<lr_segment> segments;
  void read(Call& call, size_t i);
  const lr_linear_group* get() const { return &value; }
};

template <>
struct Arg<const lr_attention_args*> {
  lr_attention_args value{};
  void read(Call& call, size_t i);
  const lr_attention_args* get() const { return &value; }
};

template <>
struct Arg<const lr_head_args*> {
  lr_head_args value{};
  void read(Call& call, size_t i);
  const lr_head_args* get() const { return &value; }
};

struct OpInfo {
  const char* js;    // name of the function
  const char* name;  // of the entry, for errors
  bool scratch;      // the entry is asked for its scratch first
  int index;         // for the profile
};

template <auto Entry>
struct Op;

template <class... A, lr_error (*lr_backend::*Entry)(lr_queue*, A...)>
struct Op<Entry> : Record {
  lr_error (*entry)(lr_queue*, A...);
  std::tuple<Arg<A>...> args;

  static inline OpInfo info;

  lr_error run(lr_queue* queue) override {
    return std::apply([&](const auto&... a) { return entry(queue, a.get()...); }, args);
  }

  static napi_value call(napi_env env, napi_callback_info callback_info) {
    static_assert(1 + sizeof...(A) <= Call::kMaxArguments, "Call would not see the last arguments");
    return guarded(env, callback_info, info.name, [](Call& call) {
      call.arity(1 + sizeof...(A));
      Device& device = call.device(0);
      auto op = std::make_unique<Op>();
      op->entry = device.backend.*Entry;
      if (!op->entry) LR_THROW(LR_UNSUPPORTED, info.name, "the kernels \"%s\" of device %s lack this op", device.backend.name, device.name.c_str());
      size_t i = 1;
      std::apply([&](auto&... a) { (a.read(call, i++), ...); }, op->args);
      size_t scratch = 0;
      if (info.scratch) {
        lr_queue sizing{};
        sizing.threads = device.stream.threads();
        sizing.sizing = 1;
        const lr_error error = op->run(&sizing);
        if (error.code != LR_OK) throw Fault{error};
        scratch = sizing.scratch_size;
      }
      op->op = info.index;
      op->errors = call.environment.errors_of(device);
      call.enqueue(device, std::move(op), scratch);
      return call.undefined();
    });
  }
};

}  // namespace lr
#endif
