#include "ops/ortho.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "common/parallel.hpp"
#include "ops/ortho_kernels.hpp"

namespace fluxcore {
namespace {

constexpr std::int64_t kChunk = 16384;
constexpr double kNothingLeft = 1e-6;  // of the length: what is left is rounding, and is not blown up
constexpr double kCancels = 1e-4;      // of the square: below, the difference of squares has too few digits

const OrthoKernels& kernels_for(Isa isa) {
  if (std::ranges::find(available_isas(), isa) == available_isas().end()) {
    throw std::invalid_argument("`isa` must be available here, got `" + std::string(isa_name(isa)) + "`");
  }
#if defined(__x86_64__)
  if (isa == Isa::avx512) return avx512::ortho_kernels();
  if (isa == Isa::avx2) return avx2::ortho_kernels();
#endif
  return portable::ortho_kernels();
}

struct Chunk {
  std::size_t tensor;
  OrthoTensor part;
};

std::vector<Chunk> chunks_of(const std::vector<OrthoTensor>& tensors) {
  std::vector<Chunk> chunks;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    for (std::int64_t begin = 0; begin < tensors[t].count; begin += kChunk) {
      OrthoTensor part = tensors[t];
      part.weight += begin;
      part.gradient += begin;
      if (part.exp_avg != nullptr) part.exp_avg += begin;
      if (part.exp_avg_sq != nullptr) part.exp_avg_sq += begin;
      part.count = std::min(kChunk, tensors[t].count - begin);
      chunks.push_back({.tensor = t, .part = part});
    }
  }
  return chunks;
}

// body(chunk, its number) for each chunk, a few at a time: a chunk takes some microseconds.
template <class Body>
void for_chunks(const std::vector<Chunk>& chunks, int threads, const Body& body) {
  parallel_for(static_cast<std::int64_t>(chunks.size()), 4, threads, [&](std::int64_t begin, std::int64_t end) {
    for (auto c = static_cast<std::size_t>(begin); c < static_cast<std::size_t>(end); ++c) body(chunks[c], c);
  });
}

// Sums are kept a chunk and added in their order, so that threads do not change them.
std::vector<Projection> projections(const std::vector<Chunk>& chunks, std::size_t tensors, const AdamOptions* options,
                                    const OrthoKernels& kernels, int threads) {
  std::vector<OrthoSums> parts(chunks.size());
  for_chunks(chunks, threads, [&](const Chunk& chunk, std::size_t c) { parts[c] = kernels.sums(chunk.part, options); });
  std::vector<OrthoSums> sums(tensors);
  for (std::size_t c = 0; c < chunks.size(); ++c) {
    OrthoSums& sum = sums[chunks[c].tensor];
    sum.ww += parts[c].ww;
    sum.wd += parts[c].wd;
    sum.dd += parts[c].dd;
  }
  std::vector<Projection> found(tensors);
  std::vector<double> left(tensors);
  std::vector<char> cancels(tensors);
  for (std::size_t t = 0; t < tensors; ++t) {
    const OrthoSums& sum = sums[t];
    if (sum.ww > 0.0) found[t].along = sum.wd / sum.ww;
    left[t] = sum.dd - found[t].along * sum.wd;
    cancels[t] = static_cast<char>(!(left[t] > kCancels * sum.dd));
  }
  if (std::ranges::find(cancels, char{1}) != cancels.end()) {
    std::vector<double> rest(chunks.size());
    for_chunks(chunks, threads, [&](const Chunk& chunk, std::size_t c) {
      if (cancels[chunk.tensor] != 0) rest[c] = kernels.rest(chunk.part, options, found[chunk.tensor].along);
    });
    for (std::size_t t = 0; t < tensors; ++t) left[t] = cancels[t] != 0 ? 0.0 : left[t];
    for (std::size_t c = 0; c < chunks.size(); ++c) left[chunks[c].tensor] += rest[c];
  }
  for (std::size_t t = 0; t < tensors; ++t) {
    const double length = std::sqrt(sums[t].dd);
    const double remains = std::sqrt(left[t]);
    if (remains > 0.0 && !(remains < kNothingLeft * length)) found[t].scale = length / remains;
  }
  return found;
}

}  // namespace

void orthogonalize(const std::vector<OrthoTensor>& tensors, int threads, Isa isa) {
  const OrthoKernels& kernels = kernels_for(isa);
  const std::vector<Chunk> chunks = chunks_of(tensors);
  const std::vector<Projection> found = projections(chunks, tensors.size(), nullptr, kernels, threads);
  for_chunks(chunks, threads,
             [&](const Chunk& chunk, std::size_t) { kernels.project(chunk.part, found[chunk.tensor]); });
}

void ortho_adamw(const std::vector<OrthoTensor>& tensors, const AdamOptions& options, int threads, Isa isa) {
  const OrthoKernels& kernels = kernels_for(isa);
  const std::vector<Chunk> chunks = chunks_of(tensors);
  const AdamOptions* of_update = options.project_update ? &options : nullptr;
  const std::vector<Projection> found = projections(chunks, tensors.size(), of_update, kernels, threads);
  for_chunks(chunks, threads,
             [&](const Chunk& chunk, std::size_t) { kernels.step(chunk.part, options, found[chunk.tensor]); });
}

}  // namespace fluxcore
