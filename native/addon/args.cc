// Structures that travel as a Float64Array, one number a field.
#include <cmath>

#include "marshal.h"

namespace lr {
namespace {

class Words {
 public:
  Words(Call& call, size_t i) : call_(call) { words_ = call.doubles(i, &count_); }

  double number() {
    if (next_ == count_) LR_THROW(LR_INVALID, call_.op, "the argument array ends after %zu numbers", count_);
    return words_[next_++];
  }
  int64_t integer(int64_t low, int64_t high) {
    const double value = number();
    if (!(value >= static_cast<double>(low) && value <= static_cast<double>(high)) || value != std::floor(value))
      LR_THROW(LR_INVALID, call_.op, "number %zu of the argument array must be a whole number but is %g", next_ - 1, value);
    return static_cast<int64_t>(value);
  }
  void read(lr_tensor& field) { field = call_.tensor(number()); }
  void read(lr_weight& field) { field = call_.weight(number()); }
  void optional(lr_weight& field) {
    if (const double handle = number(); handle != 0) field = call_.weight(handle);
  }
  void read(float& field) { field = static_cast<float>(number()); }
  void read(int32_t& field) { field = static_cast<int32_t>(integer(INT32_MIN, INT32_MAX)); }
  void read(int64_t& field) { field = integer(-(int64_t{1} << 53), int64_t{1} << 53); }

  template <class... Fields>
  void all(Fields&... fields) {
    (read(fields), ...);
  }
  // A count of things that take at least `words` numbers each.
  int32_t count(size_t words) {
    const int64_t n = integer(0, INT32_MAX);
    if (static_cast<size_t>(n) > (count_ - next_) / words) LR_THROW(LR_INVALID, call_.op, "the argument array is too short for %lld entries", static_cast<long long>(n));
    return static_cast<int32_t>(n);
  }
  void end() const {
    if (next_ != count_) LR_THROW(LR_INVALID, call_.op, "the argument array has %zu numbers but %zu were expected", count_, next_);
  }

 private:
  Call& call_;
  const double* words_;
  size_t count_ = 0, next_ = 0;
};

}  // namespace

void Arg<const lr_linear_group*>::read(Call& call, size_t i) {
  Words words(call, i);
  words.all(value.x, value.dx, value.accumulate, value.math, value.dropout.p);
  const uint64_t low = static_cast<uint64_t>(words.integer(0, UINT32_MAX)), high = static_cast<uint64_t>(words.integer(0, UINT32_MAX));
  value.dropout.key = high << 32 | low;
  words.all(value.gated, value.activation);
  value.count = words.count(6);
  layers.resize(static_cast<size_t>(value.count));
  for (lr_linear& layer : layers) {
    layer = {};
    words.all(layer.weight, layer.bias, layer.y, layer.u, layer.residual);
    layer.segment_count = words.count(7);
    for (int32_t s = 0; s < layer.segment_count; s++) {
      lr_segment segment{};
      words.all(segment.row_begin, segment.row_end, segment.a, segment.b, segment.da, segment.db, segment.scale);
      segments.push_back(segment);
    }
  }
  words.end();
  const lr_segment* next = segments.data();
  for (lr_linear& layer : layers) {
    layer.segments = next;
    next += layer.segment_count;
  }
  value.layers = layers.data();
}

void Arg<const lr_attention_args*>::read(Call& call, size_t i) {
  Words words(call, i);
  lr_attention_args& v = value;
  words.all(v.out, v.lse, v.q, v.k, v.v, v.cu_q, v.cu_k, v.kv_len, v.block_table, v.scale, v.softcap, v.window, v.max_q, v.math, v.dout, v.dq, v.dk, v.dv);
  words.end();
}

void Arg<const lr_head_args*>::read(Call& call, size_t i) {
  Words words(call, i);
  lr_head_args& v = value;
  words.all(v.value, v.entropy, v.argmax, v.dx_unit, v.x);
  words.optional(v.weight);
  words.all(v.labels, v.softcap, v.logit_scale, v.smoothing, v.z_loss, v.math, v.dvalue, v.dentropy, v.dx, v.dweight);
  words.end();
}

}  // namespace lr
