#include "shadow.h"

#include <link.h>
#include <sys/mman.h>

#include <array>
#include <cstring>
#include <map>

#include "machine.h"

namespace emu {
namespace {

struct Buffer {
  uintptr_t begin = 0, end = 0;  // what was asked for
  void* mapping = nullptr;
  size_t mapped = 0;
  Cell* cells = nullptr;  // mapped with the first access
};
std::map<uintptr_t, Buffer> buffers;  // by begin
std::array<Buffer*, 64> recent{};  // found last for an address of such a page

std::vector<MomentPlace> places;
Moment first_moment = 1;

constexpr size_t kPage = 4096, kAlignment = 256;
constexpr size_t kPoisoned = size_t{1} << 30;  // larger buffers stay untouched, and cost no memory until they are used
size_t pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

Buffer* buffer_of(uintptr_t address) {
  Buffer*& last = recent[address / kPage % recent.size()];
  if (last && address >= last->begin && address < last->end) return last;
  auto next = buffers.upper_bound(address);
  if (next == buffers.begin()) return nullptr;
  Buffer* found = &std::prev(next)->second;
  return address < found->end ? last = found : nullptr;
}

Moment moment_of(Thread& thread) {
  if (!thread.moment) {
    places.push_back({thread.block->number, thread.epoch, static_cast<uint32_t>(thread.index), thread.clock});
    thread.moment = first_moment + static_cast<Moment>(places.size()) - 1;
  }
  return thread.moment;
}

bool live(Moment moment) { return moment >= first_moment; }

// Whether what happened at the moment lies before what the thread does now.
bool before(Moment moment, const Thread& thread) {
  if (!live(moment)) return true;
  const MomentPlace& at = place(moment);
  if (at.block != thread.block->number) return false;
  if (at.epoch < thread.epoch || at.thread == static_cast<uint32_t>(thread.index)) return true;
  return thread.seen[at.thread] >= at.clock;
}

// A reader, not ordered before the thread's write; 0 when all are.
Moment unordered_reader(const Cell& cell, const Thread& thread) {
  if (!live(cell.reader)) return 0;
  if (cell.flags & Cell::kTwoReaders) return !before(cell.reader, thread) ? cell.reader : !before(cell.lanes, thread) ? cell.lanes : 0;
  const MomentPlace& at = place(cell.reader);
  if (at.block != thread.block->number) return cell.reader;
  if (at.epoch < thread.epoch) return 0;
  const uint32_t first = at.thread / kWarp * kWarp;
  for (uint32_t lanes = cell.lanes; lanes; lanes &= lanes - 1) {
    const uint32_t reader = first + static_cast<uint32_t>(__builtin_ctz(lanes));
    // The newest reader's clock stands for all lanes: later than theirs, so nothing is missed.
    if (reader != static_cast<uint32_t>(thread.index) && thread.seen[reader] < at.clock) return cell.reader;
  }
  return 0;
}

// Keeps one reader, or two of which at least one lies in another warp than any writer to come.
void note_reader(Cell& cell, Thread& thread, Moment moment) {
  if (cell.reader == moment) return;
  if (cell.flags & Cell::kTwoReaders) {
    if (before(cell.reader, thread)) cell.reader = moment;
    else if (before(cell.lanes, thread)) cell.lanes = moment;
    return;
  }
  const MomentPlace* at = live(cell.reader) ? &place(cell.reader) : nullptr;
  const bool ours = at && at->block == thread.block->number;
  if (!at || (ours && at->epoch < thread.epoch)) {
    cell.reader = moment;
    cell.lanes = 1u << thread.lane;
  } else if (ours && at->thread / kWarp == static_cast<uint32_t>(thread.warp)) {
    cell.reader = moment;
    cell.lanes |= 1u << thread.lane;
  } else {
    cell.flags |= Cell::kTwoReaders;
    cell.lanes = moment;
  }
}

std::string where(uintptr_t address, const Block& block, const Buffer* buffer) {
  char text[96];
  if (buffer) snprintf(text, sizeof text, "byte %zu of a buffer of %zu", static_cast<size_t>(address - buffer->begin), static_cast<size_t>(buffer->end - buffer->begin));
  else snprintf(text, sizeof text, "shared byte %zu", static_cast<size_t>(address - reinterpret_cast<uintptr_t>(block.shared)));
  return text;
}

void judge(Cell& cell, Thread& thread, Access access, uintptr_t address, const Buffer* buffer, const void* code) {
  const char* what = access == Access::kRead ? "read" : access == Access::kWrite ? "write" : "atomic";
  if (cell.flags & Cell::kInFlight)
    broken(code, "%s of %s before cp.async delivered it, issued by %s", what, where(address, *thread.block, buffer).c_str(), name_of(cell.writer).c_str());
  if (!buffer && access != Access::kWrite && !(cell.flags & Cell::kWritten)) broken(code, "%s of uninitialised %s", what, where(address, *thread.block, buffer).c_str());
  if (!before(cell.writer, thread) && !(access == Access::kAtomic && (cell.flags & Cell::kAtomic)))
    broken(code, "race: %s of %s, written by %s", what, where(address, *thread.block, buffer).c_str(), name_of(cell.writer).c_str());
  const Moment now = moment_of(thread);
  if (access == Access::kRead) return note_reader(cell, thread, now);
  if (const Moment reader = unordered_reader(cell, thread))
    broken(code, "race: %s of %s, read by %s", what, where(address, *thread.block, buffer).c_str(), name_of(reader).c_str());
  cell = {now, 0, 0, Cell::kWritten | (access == Access::kAtomic ? Cell::kAtomic : 0u)};
}

// The bytes of one access. Neighbours mostly have the same history, and then the same future.
void judge(Cell* cells, size_t bytes, Thread& thread, Access access, uintptr_t address, const Buffer* buffer, const void* code) {
  Cell history;
  for (size_t i = 0; i < bytes; i++) {
    if (i > 0 && std::memcmp(&cells[i], &history, sizeof(Cell)) == 0) {
      cells[i] = cells[i - 1];
      continue;
    }
    history = cells[i];
    judge(cells[i], thread, access, address + i, buffer, code);
  }
}

// Whether the address lies in what the program was loaded with: constants a kernel may read.
bool in_image(uintptr_t address) {
  struct Search { uintptr_t address; bool found; } search{address, false};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto* search = static_cast<Search*>(data);
        for (int i = 0; i < info->dlpi_phnum; i++) {
          const auto& part = info->dlpi_phdr[i];
          if (part.p_type == PT_LOAD && search->address - (info->dlpi_addr + part.p_vaddr) < part.p_memsz) search->found = true;
        }
        return search->found ? 1 : 0;
      },
      &search);
  return search.found;
}

}  // namespace

const MomentPlace& place(Moment moment) { return places[moment - first_moment]; }

void begin_moments() {
  first_moment += static_cast<Moment>(places.size());
  places.clear();
  if (first_moment < 0xe0000000u) return;
  // Numbers run out: forget what earlier launches did, which nobody asks about.
  first_moment = 1;
  for (auto& entry : buffers)
    if (entry.second.cells) munmap(entry.second.cells, pages((entry.second.end - entry.second.begin) * sizeof(Cell))), entry.second.cells = nullptr;
}

void observe(uintptr_t address, size_t bytes, Access access, const void* code) {
  Thread& thread = *machine.current;
  Block& block = *thread.block;
  const char* what = access == Access::kRead ? "read" : access == Access::kWrite ? "write" : "atomic";
  const size_t offset = address - reinterpret_cast<uintptr_t>(block.shared);
  if (offset < machine.launch->shared) {
    if (bytes > machine.launch->shared - offset) broken(code, "%s of %zu bytes at shared byte %zu, but the block has %zu", what, bytes, offset, machine.launch->shared);
    return judge(&block.shared_cells[offset], bytes, thread, access, address, nullptr, code);
  }
  if (Buffer* buffer = buffer_of(address)) {
    const size_t at = address - buffer->begin, size = buffer->end - buffer->begin;
    if (bytes > size - at) broken(code, "%s of %zu bytes at byte %zu of a buffer of %zu", what, bytes, at, size);
    if (!buffer->cells) {
      void* cells = mmap(nullptr, pages(size * sizeof(Cell)), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (cells == MAP_FAILED) broken(code, "no memory for the shadow of a buffer of %zu bytes", size);
      buffer->cells = static_cast<Cell*>(cells);
    }
    return judge(buffer->cells + at, bytes, thread, access, address, buffer, code);
  }
  if (access == Access::kRead && in_image(address)) return;
  if (offset - machine.launch->shared < kMaxShared) broken(code, "%s at shared byte %zu, but the block has %zu", what, offset, machine.launch->shared);
  // The nearest buffer says whose index went wrong.
  const auto next = buffers.upper_bound(address);
  if (next != buffers.begin()) {
    const Buffer& buffer = std::prev(next)->second;
    broken(code, "%s out of bounds: byte %zu of a buffer of %zu", what, static_cast<size_t>(address - buffer.begin), static_cast<size_t>(buffer.end - buffer.begin));
  }
  if (next != buffers.end()) broken(code, "%s out of bounds: %zu bytes before a buffer", what, static_cast<size_t>(next->second.begin - address));
  broken(code, "%s at address %p, which is no device memory", what, reinterpret_cast<void*>(address));
}

void observe_copy(uintptr_t address, size_t bytes, bool arrived, const void* code) {
  Block& block = *machine.current->block;
  if (!arrived) observe(address, bytes, Access::kWrite, code);
  const size_t offset = address - reinterpret_cast<uintptr_t>(block.shared);
  const Moment now = moment_of(*machine.current);
  for (size_t i = 0; i < bytes; i++) block.shared_cells[offset + i] = {now, 0, 0, Cell::kWritten | (arrived ? 0u : Cell::kInFlight)};
}

void* allocate(size_t bytes) {
  if (bytes == 0) bytes = 1;
  if (bytes > SIZE_MAX / 2) return nullptr;
  const size_t room = pages((bytes + kAlignment - 1) / kAlignment * kAlignment);
  void* mapping = mmap(nullptr, room + 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  char* first = static_cast<char*>(mapping) + kPage;
  if (mprotect(mapping, kPage, PROT_NONE) != 0 || mprotect(first + room, kPage, PROT_NONE) != 0) return munmap(mapping, room + 2 * kPage), nullptr;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(first + room - (bytes + kAlignment - 1) / kAlignment * kAlignment);
  if (room <= kPoisoned) std::memset(first, 0xff, room);
  buffers[begin] = {begin, begin + bytes, mapping, room + 2 * kPage, nullptr};
  return reinterpret_cast<void*>(begin);
}

bool release(void* data) {
  const auto found = buffers.find(reinterpret_cast<uintptr_t>(data));
  if (found == buffers.end()) return false;
  Buffer& buffer = found->second;
  if (buffer.cells) munmap(buffer.cells, pages((buffer.end - buffer.begin) * sizeof(Cell)));
  munmap(buffer.mapping, buffer.mapped);
  buffers.erase(found);
  recent = {};
  return true;
}

bool in_buffer(const void* data, size_t bytes) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(data);
  const Buffer* buffer = buffer_of(address);
  return buffer && bytes <= buffer->end - address;
}

}  // namespace emu
