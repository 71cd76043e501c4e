// What a warp does together: every lane of the mask brings its part and waits, the last one does the work for all.
#include <array>

#include "machine.h"
#include "numbers.h"

namespace emu {
namespace {

constexpr uint32_t kAll32 = 0xffffffffu;
const char* const kNames[] = {"__syncwarp", "a shuffle", "a vote", "ldmatrix", "mma"};
using Lanes = std::array<Thread*, kWarp>;

std::vector<Thread*> all(const Lanes& lanes) {
  std::vector<Thread*> threads;
  for (Thread* lane : lanes)
    if (lane) threads.push_back(lane);
  return threads;
}

void do_shuffle(const Lanes& lanes, uint32_t mask, const void* code) {
  uint64_t sent[kWarp] = {};
  for (int i = 0; i < kWarp; i++)
    if (mask >> i & 1) sent[i] = lanes[static_cast<size_t>(i)]->request->value;
  for (int i = 0; i < kWarp; i++) {
    if (!(mask >> i & 1)) continue;
    WarpRequest& r = *lanes[static_cast<size_t>(i)]->request;
    const int first = i & ~(r.width - 1), last = first + r.width - 1;
    int source = i;
    if (r.kind == kIndex) source = first + (r.source & (r.width - 1));
    else if (r.kind == kUp) source = i - r.source < first ? i : i - r.source;
    else if (r.kind == kDown) source = i + r.source > last ? i : i + r.source;
    else source = (i ^ r.source) > last ? i : i ^ r.source;
    if (!(mask >> source & 1)) {
      machine.current = lanes[static_cast<size_t>(i)];
      broken(code, "a shuffle at line %d reads lane %d, which is not in its mask 0x%08x", machine.current->line, source, mask);
    }
    r.value = sent[source];
  }
}

void do_vote(const Lanes& lanes, uint32_t mask) {
  uint32_t ballot = 0;
  for (int i = 0; i < kWarp; i++)
    if ((mask >> i & 1) && lanes[static_cast<size_t>(i)]->request->value) ballot |= 1u << i;
  for (int i = 0; i < kWarp; i++) {
    if (!(mask >> i & 1)) continue;
    WarpRequest& r = *lanes[static_cast<size_t>(i)]->request;
    r.value = r.kind == kBallot ? ballot : r.kind == kAll ? ballot == mask : ballot != 0;
  }
}

// PTX ISA, "Warp-level matrix instructions: ldmatrix": lanes 8 i to 8 i + 7 bring the rows of matrix i; lane t receives the two
// elements of row t / 4 from column 2 (t % 4) on, of the transposed matrix where .trans is given.
void do_load_matrix(const Lanes& lanes, const void* code) {
  const WarpRequest& any = *lanes[0]->request;
  for (int matrix = 0; matrix < any.kind; matrix++) {
    const uint16_t* rows[8];
    for (int r = 0; r < 8; r++) {
      machine.current = lanes[static_cast<size_t>(8 * matrix + r)];
      const auto address = reinterpret_cast<uintptr_t>(machine.current->request->in);
      const Block& block = *machine.current->block;
      if (address % 16 != 0) broken(code, "ldmatrix at line %d of a row at address %p, which is not a multiple of 16", machine.current->line, machine.current->request->in);
      if (address - reinterpret_cast<uintptr_t>(block.shared) >= machine.launch->shared + kMaxShared)
        broken(code, "ldmatrix at line %d of a row that is not in shared memory", machine.current->line);
      observe(address, 16, Access::kRead, code);
      rows[r] = reinterpret_cast<const uint16_t*>(address);
    }
    for (int t = 0; t < kWarp; t++) {
      const int row = t / 4, column = 2 * (t % 4);
      const uint32_t low = any.source ? rows[column][row] : rows[row][column], high = any.source ? rows[column + 1][row] : rows[row][column + 1];
      lanes[static_cast<size_t>(t)]->request->out[matrix] = low | high << 16;
    }
  }
}

// PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type" and "... mma.m16n8k8" (.tf32): D = A B + C, A 16 x K, B K x 8.
// The tensor cores' own order and rounding of sums is not documented: here the sum is formed in float64 and rounded once.
void do_mma(const Lanes& lanes) {
  const int element = lanes[0]->request->kind, depth = element == kTf32 ? 8 : 16;
  float a[16][16], b[16][8];
  for (int t = 0; t < kWarp; t++) {
    const WarpRequest& r = *lanes[static_cast<size_t>(t)]->request;
    const auto* ra = static_cast<const uint32_t*>(r.a);
    const auto* rb = static_cast<const uint32_t*>(r.b);
    const int group = t / 4, in_group = t % 4;
    if (element == kTf32) {  // the low 13 bits of a register are ignored
      for (int i = 0; i < 4; i++) a[group + (i % 2) * 8][in_group + (i / 2) * 4] = bits_to_float(ra[i] & 0xffffe000u);
      for (int i = 0; i < 2; i++) b[in_group + i * 4][group] = bits_to_float(rb[i] & 0xffffe000u);
      continue;
    }
    const auto half = [element](const uint32_t* registers, int i) {
      const auto bits = static_cast<uint16_t>(registers[i / 2] >> (i % 2 * 16));
      return element == kBf16 ? bf16_to_float(bits) : f16_to_float(bits);
    };
    for (int i = 0; i < 8; i++) a[group + (i / 2 % 2) * 8][in_group * 2 + i % 2 + (i / 4) * 8] = half(ra, i);
    for (int i = 0; i < 4; i++) b[in_group * 2 + i % 2 + (i / 2) * 8][group] = half(rb, i);
  }
  for (int t = 0; t < kWarp; t++) {
    float* c = lanes[static_cast<size_t>(t)]->request->c;
    for (int i = 0; i < 4; i++) {
      const int row = t / 4 + (i / 2) * 8, column = t % 4 * 2 + i % 2;
      double sum = c[i];
      for (int k = 0; k < depth; k++) sum += static_cast<double>(a[row][k]) * static_cast<double>(b[k][column]);
      c[i] = static_cast<float>(sum);
    }
  }
}

}  // namespace

void warp_operation(WarpRequest& request, int line) {
  const void* code = __builtin_return_address(0);
  Thread& self = *machine.current;
  Block& block = *self.block;
  const uint32_t mask = request.mask;
  const char* name = kNames[static_cast<int>(request.op)];
  if (!(mask >> self.lane & 1)) broken(code, "%s at line %d with mask 0x%08x, which leaves out the calling lane %d", name, line, mask, self.lane);
  if (request.op == WarpOp::kShuffle && (request.width < 1 || request.width > 32 || (request.width & (request.width - 1))))
    broken(code, "a shuffle at line %d with width %d, which is no power of two up to 32", line, request.width);
  Warp& warp = block.warp[static_cast<size_t>(self.warp)];
  if (const uint32_t absent = mask & ~warp.lanes) broken(code, "%s at line %d with mask 0x%08x, but the warp has no lane %d", name, line, mask, __builtin_ctz(absent));
  if (const uint32_t ended = mask & warp.done) broken(code, "%s at line %d with mask 0x%08x, but lane %d has exited", name, line, mask, __builtin_ctz(ended));
  self.state = Thread::kInWarp;
  self.line = line;
  self.request = &request;
  const uint32_t others = warp.waiting & mask;
  warp.waiting |= 1u << self.lane;
  const auto met = [&](int i) {
    Thread* lane = block.thread[static_cast<size_t>(self.warp * kWarp + i)].get();
    const WarpRequest& other = *lane->request;
    const bool aligned = request.op >= WarpOp::kLoadMatrix;
    if (other.op != request.op || other.mask != mask || other.kind != request.kind || (aligned && (lane->line != line || other.source != request.source)))
      broken(code, "%s with mask 0x%08x at line %d, but lane %d is in %s with mask 0x%08x at line %d", name, mask, line, i, kNames[static_cast<int>(other.op)], other.mask, lane->line);
    return lane;
  };
  // Until all are there, one of those that wait speaks for the rest.
  if ((warp.waiting & mask) != mask) {
    if (others) met(__builtin_ctz(others));
    return self.fiber.suspend();
  }
  Lanes lanes{};
  for (uint32_t rest = mask; rest; rest &= rest - 1) lanes[static_cast<size_t>(__builtin_ctz(rest))] = met(__builtin_ctz(rest));
  switch (request.op) {
    case WarpOp::kSync: synchronise(block, all(lanes)); break;
    case WarpOp::kShuffle: do_shuffle(lanes, mask, code); break;
    case WarpOp::kVote: do_vote(lanes, mask); break;
    case WarpOp::kLoadMatrix: do_load_matrix(lanes, code); break;
    case WarpOp::kMma: do_mma(lanes); break;
  }
  machine.current = &self;
  warp.waiting &= ~mask;
  for (uint32_t rest = mask; rest; rest &= rest - 1) lanes[static_cast<size_t>(__builtin_ctz(rest))]->state = Thread::kReady;
}

unsigned vote(int kind, unsigned mask, bool predicate, int line) {
  WarpRequest request{WarpOp::kVote, mask, kind};
  request.value = predicate;
  warp_operation(request, line);
  return static_cast<unsigned>(request.value);
}

void load_matrix(uint32_t* registers, int count, bool transposed, const void* row, int line) {
  WarpRequest request{WarpOp::kLoadMatrix, kAll32, count, transposed};
  request.out = registers;
  request.in = row;
  warp_operation(request, line);
}

void multiply(int element, float* c, const uint32_t* a, const uint32_t* b, int line) {
  WarpRequest request{WarpOp::kMma, kAll32, element};
  request.a = a;
  request.b = b;
  request.c = c;
  warp_operation(request, line);
}

}  // namespace emu
