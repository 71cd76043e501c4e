// Cases of the emulator's test program: each launches kernels and says what it saw, "" where all is as it must be.
#ifndef LOWRANK_TEST_EMU_CASES_H
#define LOWRANK_TEST_EMU_CASES_H
#include <string>
#include <vector>

#include "../../cuda/device/reduce.cuh"
#include "../../cuda/device/shared.cuh"

namespace lr {

struct Case {
  const char* name;
  std::string (*run)();
};
std::vector<Case>& cases();
struct Register {
  Register(const char* name, std::string (*run)()) { cases().push_back({name, run}); }
};
#define CASE(name)                                      \
  static std::string name();                            \
  static const ::lr::Register register_##name(#name, name); \
  static std::string name()

// Device memory with n values: as given, or fresh.
template <class T> struct Buffer {
  T* data = nullptr;
  size_t n;
  explicit Buffer(size_t n) : n(n) { cudaMalloc((void**)&data, n * sizeof(T)); }
  explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) {
    cudaMemcpyAsync(data, values.data(), n * sizeof(T), cudaMemcpyHostToDevice, stream());
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { cudaFree(data); }
  std::vector<T> read() const {
    std::vector<T> values(n);
    cudaMemcpyAsync(values.data(), data, n * sizeof(T), cudaMemcpyDeviceToHost, stream());
    cudaStreamSynchronize(stream());
    return values;
  }
};

// What the launches so far broke, or "".
inline std::string outcome() {
  const lr_error error = wait_for_stream("case");
  return error.code == LR_OK ? "" : error.text;
}

inline std::vector<float> random_floats(size_t n, uint32_t seed) {
  std::vector<float> values(n);
  for (float& v : values) {
    seed = seed * 1664525u + 1013904223u;
    v = (float)(seed >> 8) * 0x1p-23f - 1.0f;
  }
  return values;
}

}  // namespace lr
#endif
