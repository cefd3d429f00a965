#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "ops/cross_entropy.hpp"

// Calls of cross_entropy with all that they point to.
namespace fluxcore::test {

inline constexpr double kInf = std::numeric_limits<double>::infinity();
inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// [N, V] of a type, rows apart.
struct Matrix {
  Matrix(DType of, std::int64_t n, std::int64_t v)
      : dtype(of), rows(n), classes(v), stride(v + 3), bytes(static_cast<std::size_t>(n * stride) * dtype_size(of)) {}
  void* at(std::int64_t row) { return bytes.data() + static_cast<std::size_t>(row * stride) * dtype_size(dtype); }
  double value(std::int64_t row, std::int64_t i) { return softmax_kernels(Isa::portable, dtype).read(at(row), i); }
  void set(std::int64_t row, std::int64_t i, double x) { softmax_kernels(Isa::portable, dtype).write(at(row), i, x); }

  DType dtype;
  std::int64_t rows, classes, stride;
  std::vector<std::byte> bytes;
};

inline Matrix random_matrix(DType dtype, std::int64_t rows, std::int64_t classes, double scale) {
  Matrix x(dtype, rows, classes);
  std::mt19937 random(static_cast<unsigned>(classes));
  std::normal_distribution<double> normal(0.0, scale);
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t i = 0; i < classes; ++i) x.set(row, i, normal(random));
  return x;
}

// A call with values that are the same in any type.
struct Example {
  Example(DType dtype, std::int64_t rows, std::int64_t classes, double scale = 3.0)
      : x(random_matrix(dtype, rows, classes, scale)), probabilities(dtype, rows, classes) {
    const auto n = static_cast<std::size_t>(rows);
    for (std::int64_t row = 0; row < rows; ++row) {
      target.push_back(row * 7919 % classes);
      token_weight.push_back(0.5 + 0.25 * static_cast<double>(row % 3));
      for (std::int64_t i = 0; i < classes; ++i) probabilities.set(row, i, static_cast<double>((row + i) % 4) / 4.0);
    }
    for (std::int64_t i = 0; i < classes; ++i) weight.push_back(0.25 * static_cast<double>(i % 5));
    mask.assign(n, 0.5);
    upstream.assign(n, -2.0);
    call.logits = {.x = x.bytes.data(),
                   .dtype = dtype,
                   .rows = rows,
                   .classes = classes,
                   .row_stride = x.stride,
                   .target = target.data(),
                   .threads = 2};
    call.reduction = Reduction::none;
  }
  void use_probabilities() {
    call.logits.target = nullptr;
    call.probabilities = probabilities.bytes.data();
    call.probability_stride = probabilities.stride;
  }

  Matrix x, probabilities;
  std::vector<std::int64_t> target;
  std::vector<double> weight, token_weight, mask, upstream;
  std::vector<double> totals = std::vector<double>(4, kNan);  // for Reduction::given
  bool weighted = false;                                      // whether weight, token_weight and mask are used
  CrossEntropyCall call;
};

struct Outcome {
  std::vector<double> loss, state, totals, gradient, fused;
  bool operator==(const Outcome&) const = default;
};

template <class C>
Outcome run_in(Example& example) {
  CrossEntropyCall call = example.call;
  const auto n = static_cast<std::size_t>(example.x.rows);
  const std::vector<C> weight(example.weight.begin(), example.weight.end());
  const std::vector<C> token_weight(example.token_weight.begin(), example.token_weight.end());
  const std::vector<C> mask(example.mask.begin(), example.mask.end());
  const std::vector<C> upstream(example.upstream.begin(), example.upstream.end());
  if (example.weighted) {
    call.weight = weight.data();
    call.token_weight = token_weight.data();
    call.penalty_mask = mask.data();
  }
  const bool by_row = call.reduction == Reduction::none || call.reduction == Reduction::given;
  const C nan = static_cast<C>(kNan);
  const std::size_t count = n * static_cast<std::size_t>(example.x.classes);
  std::vector<C> loss(by_row ? n : 1, nan), stats(n * kSoftmaxStatsOutputs, nan), state(7 * n, nan),
      totals(example.totals.begin(), example.totals.end());
  std::vector<std::int64_t> argmax(n, -1);
  std::vector<std::int32_t> top_index(n * static_cast<std::size_t>(call.logits.top_k), -1);
  std::vector<std::byte> fused(count * dtype_size(call.logits.dtype), std::byte{0xff}), gradient = fused;
  cross_entropy_fwd(
      call, {loss.data(), stats.data(), argmax.data(), state.data(), top_index.data(), totals.data(), fused.data()});
  cross_entropy_bwd(call, {upstream.data(), by_row ? 1 : 0, argmax.data(), state.data(), top_index.data(),
                           totals.data(), gradient.data()});
  Outcome out;
  out.loss.assign(loss.begin(), loss.end());
  out.state.assign(state.begin(), state.end());
  out.totals.assign(totals.begin(), totals.end());
  const auto read = softmax_kernels(Isa::portable, call.logits.dtype).read;
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(count); ++i) {
    out.gradient.push_back(read(gradient.data(), i));
    out.fused.push_back(read(fused.data(), i));
  }
  return out;
}

inline Outcome run(Example& example) {
  return example.call.logits.dtype == DType::float64 ? run_in<double>(example) : run_in<float>(example);
}

inline const std::vector<DType> kDTypes = {DType::float32, DType::bfloat16, DType::float16, DType::float64};

}  // namespace fluxcore::test
