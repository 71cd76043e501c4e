// test_emulator [forward|reversed|shuffled] [seed] [resident blocks]: runs every case, prints one line "name<TAB>what it saw" each.
#include <stdlib.h>

#include "../../emu/machine.h"
#include "cases.h"

namespace lr {
std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}
cudaStream_t stream() {
  static cudaStream_t one = [] {
    cudaStream_t made;
    cudaStreamCreate(&made);
    return made;
  }();
  return one;
}
lr_error wait_for_stream(const char* op) {
  cudaError_t status = cudaGetLastError();
  if (status == cudaSuccess) status = cudaStreamSynchronize(stream());
  const lr_error error = status == cudaSuccess ? success() : invalid(op, "%s", cudaGetErrorString(status));
  cudaGetLastError();
  return error;
}
}  // namespace lr

int main(int count, char** words) {
  const char* const kind = count > 1 ? words[1] : "forward";
  if (!emu::set_order(kind, count > 2 ? strtoull(words[2], nullptr, 10) : 1, count > 3 ? atoi(words[3]) : 2)) return 2;
  for (const lr::Case& c : lr::cases()) {
    printf("%s\t%s\n", c.name, c.run().c_str());
    fflush(stdout);
  }
  return 0;
}
