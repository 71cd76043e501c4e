// What is known about each byte of shared and device memory: who wrote it, who read it, whether it holds anything.
//
// An access belongs to a moment: a thread between two of its synchronisations. Two accesses to a byte of which one writes are a race unless
// their moments are ordered: same thread; a full barrier of their block between them; a __syncwarp or named barrier that both took part in;
// different launches (a stream runs one after the other). Shuffles, votes and mma order nothing. Atomics do not race with atomics.
// Blocks of one launch are never ordered: a grid-wide handshake through memory is reported as a race.
#ifndef LOWRANK_EMU_SHADOW_H
#define LOWRANK_EMU_SHADOW_H
#include <cstddef>
#include <cstdint>
#include <vector>

namespace emu {

using Moment = uint32_t;  // number of a moment; those of earlier launches are smaller than the first of this one

struct Cell {
  Moment writer = 0;
  Moment reader = 0;
  uint32_t lanes = 0;  // of the reader's warp that have read since the last full barrier; or a second reader, of another warp
  uint32_t flags = 0;
  enum : uint32_t { kWritten = 1, kInFlight = 2, kAtomic = 4, kTwoReaders = 8 };
};

struct Thread;
struct Block;
enum class Access { kRead, kWrite, kAtomic };

// Judges an access of the running thread; breaks the launch when it may not be. `code` is the instruction's address.
void observe(uintptr_t address, size_t bytes, Access access, const void* code);
// Marks bytes of shared memory as written by the running thread: by a cp.async on its way, or arrived.
void observe_copy(uintptr_t address, size_t bytes, bool arrived, const void* code);
// Where and when a moment is.
struct MomentPlace { uint32_t block; uint32_t epoch; uint32_t thread; uint32_t clock; };
const MomentPlace& place(Moment moment);
void begin_moments();  // of a launch

// Device memory. Every buffer lies between guard pages and ends at one, up to its alignment of 256 bytes, and is fresh: all bytes 0xff, NaN
// (0 above 1 GiB).
void* allocate(size_t bytes);
bool release(void* data);
// Whether the range lies in one live buffer, for copies from and to the host.
bool in_buffer(const void* data, size_t bytes);

}  // namespace emu
#endif
