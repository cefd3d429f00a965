#pragma once

#include <cstdint>

namespace fluxcore {

// Bytes that new pages of files can take before others must give way: what the system calls available, and no more than
// this process's control group may use. 0 where the system does not say.
std::uint64_t memory_for_files();

}  // namespace fluxcore
