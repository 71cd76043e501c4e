#include "environment.h"

#include <cmath>

namespace lr {
namespace {

Environment& environment_of(napi_env env, const char* op) {
  void* data = nullptr;
  require_alive(napi_get_instance_data(env, &data), op);
  return *static_cast<Environment*>(data);
}

// Spread over half of the generations, the first environment's being 1.
uint32_t first_generation() {
  static std::atomic<uint32_t> environments{0};
  return 1 + (environments.fetch_add(1) * 0x9e3779b1u >> 4);
}

}  // namespace

Environment::Environment(napi_env env) : Environment(env, first_generation()) {}
Environment::Environment(napi_env env, uint32_t generation) : waiter(Waiter::create(env)), tensors(generation), weights(generation), recordings(generation) {}

std::shared_ptr<ErrorSlot>& Environment::errors_of(const Device& device) {
  auto& slot = errors[&device];
  if (!slot) slot = std::make_shared<ErrorSlot>();
  return slot;
}

Call::Call(napi_env env, napi_callback_info info, const char* op) : env(env), op(op), environment(environment_of(env, op)) {
  check(napi_get_cb_info(env, info, &count_, arguments_, nullptr, nullptr));
  environment.used.clear();
}

void Call::arity(size_t expected) const {
  if (count_ != expected) LR_THROW(LR_INVALID, op, "expected %zu arguments but received %zu", expected, count_);
}

void Call::check(napi_status status) const {
  if (status == napi_ok) return;
  if (status == napi_pending_exception) throw Pending{};
  LR_THROW(LR_INVALID, op, "Node-API status %d", status);
}

Device& Call::device(size_t i) {
  Device* device = find_device(static_cast<int>(integer(i, 0, 1 << 20)));
  if (!device) LR_THROW(LR_INVALID, op, "argument %zu is not the number of an open device", i + 1);
  device_ = device;
  return *device;
}

double Call::number(size_t i) const {
  double value;
  if (napi_get_value_double(env, arguments_[i], &value) != napi_ok) LR_THROW(LR_INVALID, op, "argument %zu must be a number", i + 1);
  return value;
}

int64_t Call::integer(size_t i, int64_t low, int64_t high) const {
  const double value = number(i);
  if (!(value >= static_cast<double>(low) && value <= static_cast<double>(high)) || value != std::floor(value))
    LR_THROW(LR_INVALID, op, "argument %zu must be a whole number from %lld to %lld but is %g", i + 1, static_cast<long long>(low), static_cast<long long>(high), value);
  return static_cast<int64_t>(value);
}

bool Call::boolean(size_t i) const {
  bool value;
  if (napi_get_value_bool(env, arguments_[i], &value) != napi_ok) LR_THROW(LR_INVALID, op, "argument %zu must be true or false", i + 1);
  return value;
}

uint64_t Call::bigint(size_t i) const {
  uint64_t value;
  bool lossless = false;
  if (napi_get_value_bigint_uint64(env, arguments_[i], &value, &lossless) != napi_ok || !lossless)
    LR_THROW(LR_INVALID, op, "argument %zu must be a bigint from 0 to 2^64 - 1", i + 1);
  return value;
}

napi_value Call::function(size_t i) const {
  napi_valuetype type;
  check(napi_typeof(env, arguments_[i], &type));
  if (type != napi_function) LR_THROW(LR_INVALID, op, "argument %zu must be a function", i + 1);
  return arguments_[i];
}

std::string Call::string(size_t i) const {
  size_t length = 0;
  if (napi_get_value_string_utf8(env, arguments_[i], nullptr, 0, &length) != napi_ok) LR_THROW(LR_INVALID, op, "argument %zu must be a string", i + 1);
  std::string text(length, '\0');
  check(napi_get_value_string_utf8(env, arguments_[i], &text[0], length + 1, &length));
  // The system's functions would take what stands before it for the whole.
  if (text.find('\0') != std::string::npos) LR_THROW(LR_INVALID, op, "argument %zu holds a NUL character", i + 1);
  return text;
}

void Call::shape(size_t i, int32_t* rank, int64_t (&sizes)[4]) const {
  bool array = false;
  uint32_t length = 0;
  check(napi_is_array(env, arguments_[i], &array));
  if (!array) LR_THROW(LR_INVALID, op, "argument %zu must be an array of sizes", i + 1);
  check(napi_get_array_length(env, arguments_[i], &length));
  if (length > 4) LR_THROW(LR_INVALID, op, "a tensor has at most 4 dimensions but the shape has %u", length);
  *rank = static_cast<int32_t>(length);
  for (int64_t& size : sizes) size = 0;
  for (uint32_t k = 0; k < length; k++) {
    napi_value element;
    double size;
    check(napi_get_element(env, arguments_[i], k, &element));
    if (napi_get_value_double(env, element, &size) != napi_ok || !(size >= 0 && size <= 1e15) || size != std::floor(size))
      LR_THROW(LR_INVALID, op, "size %u of the shape must be a whole number of at least 0", k);
    sizes[k] = static_cast<int64_t>(size);
  }
}

const void* Call::bytes(size_t i, size_t* size) const {
  bool is = false;
  void* data = nullptr;
  check(napi_is_typedarray(env, arguments_[i], &is));
  if (is) {
    napi_typedarray_type type = static_cast<napi_typedarray_type>(-1);  // stays where Node-API has no name for it
    size_t length = 0;
    check(napi_get_typedarray_info(env, arguments_[i], &type, &length, &data, nullptr, nullptr));
    static constexpr size_t kWidths[] = {1, 1, 1, 2, 2, 4, 4, 4, 8, 8, 8};  // in the order of napi_typedarray_type
    if (static_cast<size_t>(type) >= sizeof kWidths / sizeof *kWidths) LR_THROW(LR_INVALID, op, "argument %zu is a typed array of an unknown type", i + 1);
    *size = length * kWidths[type];
    return data;
  }
  check(napi_is_dataview(env, arguments_[i], &is));
  if (is) {
    check(napi_get_dataview_info(env, arguments_[i], size, &data, nullptr, nullptr));
    return data;
  }
  LR_THROW(LR_INVALID, op, "argument %zu must be a typed array", i + 1);
}

const double* Call::doubles(size_t i, size_t* count) const {
  bool is = false;
  napi_typedarray_type type = napi_int8_array;
  void* data = nullptr;
  check(napi_is_typedarray(env, arguments_[i], &is));
  if (is) check(napi_get_typedarray_info(env, arguments_[i], &type, count, &data, nullptr, nullptr));
  if (type != napi_float64_array) LR_THROW(LR_INVALID, op, "argument %zu must be a Float64Array", i + 1);
  return static_cast<const double*>(data);
}

lr_tensor Call::tensor(double handle) {
  if (handle == 0) return lr_tensor{};
  TensorEntry& entry = environment.tensors.get(handle, op);
  if (entry.device != device_) LR_THROW(LR_INVALID, op, "a tensor is on device %s but the op runs on another", entry.device->name.c_str());
  use(entry.storage);
  return entry.view;
}

lr_weight Call::weight(double handle) {
  WeightEntry& entry = environment.weights.get(handle, op);
  if (entry.device != device_) LR_THROW(LR_INVALID, op, "a weight is on device %s but the op runs on another", entry.device->name.c_str());
  for (Storage* storage : entry.storages)
    if (storage) use(storage);
  return entry.weight;
}

void Call::refuse_filling(const Storage* storage) const {
  if (storage->filling()) LR_THROW(LR_INVALID, op, "a file is being read into this tensor: wait for readFile first");
}

void Call::use(Storage* storage) {
  refuse_filling(storage);
  environment.used.push_back(storage);
}

TensorEntry& Call::tensor_entry(size_t i) { return environment.tensors.get(number(i), op); }

void Call::not_recorded() const {
  if (environment.recorder) LR_THROW(LR_INVALID, op, "this cannot be recorded: only ops can");
}

Ticket Call::enqueue(Device& device, std::unique_ptr<Record> record, size_t scratch) {
  if (Recorder* recorder = environment.recorder) {
    if (&recorder->device != &device) LR_THROW(LR_INVALID, op, "device %s is recorded, this is for %s", recorder->device.name.c_str(), device.name.c_str());
    recorder->hold_back(std::move(record), scratch, environment.used);
    return 0;
  }
  const Ticket ticket = device.enqueue(std::move(record), scratch);
  for (Storage* storage : environment.used) storage->used(ticket);
  return ticket;
}

napi_value Call::undefined() const {
  napi_value value;
  check(napi_get_undefined(env, &value));
  return value;
}

napi_value Call::from(double number) const {
  napi_value value;
  check(napi_create_double(env, number, &value));
  return value;
}

napi_value Call::from(const std::string& text) const {
  napi_value value;
  check(napi_create_string_utf8(env, text.data(), text.size(), &value));
  return value;
}

void define(napi_env env, napi_value object, const char* name, napi_callback callback) {
  napi_value function = nullptr;
  require_alive(napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, nullptr, &function), "load");
  require_alive(napi_set_named_property(env, object, name, function), "load");
}

}  // namespace lr
