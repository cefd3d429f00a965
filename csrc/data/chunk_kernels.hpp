#pragma once

#include <cstddef>
#include <cstdint>

#include "data/layout.hpp"
#include "data/out_type.hpp"

// Copies of whole chunks that widen their tokens, once for each instruction set.
namespace fluxcore::data {

struct ChunkCopy {
  const std::byte* in = nullptr;  // of a mapped file, in which at least one more token follows the chunk
  std::size_t size = 0;           // bytes
  void* tokens = nullptr;
  void* targets = nullptr;              // tokens moved left by one, the last of any value; or nullptr
  const std::byte* upcoming = nullptr;  // comes into the cache meanwhile, as many bytes; not read
};

struct ChunkKernels {
  void (*copy)(const ChunkCopy& chunk) noexcept;
  // The same; returns the CRC-32C of the chunk. Checking costs little beside the copy: the CRC keeps other parts of the
  // processor busy, and the chunk is brought in once.
  std::uint32_t (*copy_and_check)(const ChunkCopy& chunk) noexcept;
};

// The fastest that this processor has.
const ChunkKernels& chunk_kernels(TokenType token, OutType out);

}  // namespace fluxcore::data

namespace fluxcore {
namespace portable {
const data::ChunkKernels& chunk_kernels(data::TokenType token, data::OutType out);
}
namespace avx2 {
const data::ChunkKernels& chunk_kernels(data::TokenType token, data::OutType out);
}
namespace avx512 {
const data::ChunkKernels& chunk_kernels(data::TokenType token, data::OutType out);
}
}  // namespace fluxcore
