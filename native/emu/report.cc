// What a broken rule says: kernel, rule, both parties, and the source line where the compiler's tools can tell it.
#include <dlfcn.h>

#include <cstdarg>
#include <cstdio>

#include "machine.h"

namespace emu {
namespace {

std::string text_of(uint3 at) {
  char text[64];
  snprintf(text, sizeof text, at.y || at.z ? "(%u,%u,%u)" : "%u", at.x, at.y, at.z);
  return text;
}

std::string name_of(uint32_t block, uint32_t thread) {
  const auto position = [](uint32_t i, dim3 size) { return uint3{i % size.x, i / size.x % size.y, i / size.x / size.y}; };
  return "block " + text_of(position(block, machine.launch->grid)) + " thread " + text_of(position(thread, machine.launch->block));
}

std::string vtext(const char* format, va_list args) {
  char text[512];
  vsnprintf(text, sizeof text, format, args);
  return text;
}

}  // namespace

std::string name_of(const Thread& thread) { return name_of(thread.block->number, static_cast<uint32_t>(thread.index)); }
std::string name_of(Moment moment) { return name_of(place(moment).block, place(moment).thread); }

std::string place_of(const void* code) {
  Dl_info info;
  if (!code || !dladdr(code, &info) || !info.dli_fname) return "";
  char command[512], line[256] = "";
  // One byte back: a return address belongs to the instruction behind the call.
  const size_t offset = static_cast<size_t>(static_cast<const char*>(code) - static_cast<const char*>(info.dli_fbase)) - 1;
  snprintf(command, sizeof command, "addr2line -i -s -e '%s' 0x%zx 2>/dev/null", info.dli_fname, offset);
  FILE* pipe = popen(command, "r");
  if (!pipe) return "";
  std::string found;
  // Innermost first: a line of the kernel's own file, else of a header of device/; the emulator's and C++'s are never the answer.
  while (fgets(line, sizeof line, pipe)) {
    const std::string text(line, std::string(line).find_first_of(" \n"));
    const bool kernel = text.find(".cu:") != std::string::npos;
    if (text.find('?') != std::string::npos || (!kernel && (!found.empty() || text.find(".cuh:") == std::string::npos))) continue;
    found = " at " + text;
    if (kernel) break;
  }
  pclose(pipe);
  return found;
}

void keep_report(const char* format, ...) {
  if (!machine.report.empty()) return;
  va_list args;
  va_start(args, format);
  machine.report = std::string(machine.launch->kernel) + ": " + vtext(format, args);
  va_end(args);
}

void broken(const void* code, const char* format, ...) {
  va_list args;
  va_start(args, format);
  const std::string text = vtext(format, args);
  va_end(args);
  keep_report("%s, by %s%s", text.c_str(), name_of(*machine.current).c_str(), place_of(code).c_str());
  // The launch is over: nobody resumes this fiber.
  for (;;) machine.running->fiber.suspend();
}

}  // namespace emu
