// A few threads for blocking file reads, so that loading neither holds up the stream nor JavaScript.
#ifndef LOWRANK_CORE_IO_POOL_H
#define LOWRANK_CORE_IO_POOL_H
#include <functional>

namespace lr {

void run_io(std::function<void()> job);

}  // namespace lr
#endif
