#include "ops/ortho_kernels.hpp"

#include "common/simd.hpp"

namespace fluxcore::FLUXCORE_ISA {
namespace {

using Wide = Vec<double>;
constexpr std::int64_t kStep = kLanes<double>;

Wide root(Wide x) {
#if defined(__AVX512F__)
  return _mm512_sqrt_pd(x);
#elif defined(__AVX2__)
  return _mm256_sqrt_pd(x);
#else
  for (int lane = 0; lane < kStep; ++lane) x[lane] = __builtin_sqrt(x[lane]);
  return x;
#endif
}

// Up to kStep floats, those beyond `n` as 0.
[[gnu::always_inline]] inline Wide read(const float* from, std::int64_t n) {
  HalfVec<float> half{};
  if (n >= kStep) {
    std::memcpy(&half, from, sizeof(half));
  } else {
    std::memcpy(&half, from, static_cast<std::size_t>(n) * sizeof(float));
  }
  return __builtin_convertvector(half, Wide);
}

[[gnu::always_inline]] inline void write(Wide values, float* to, std::int64_t n) {
  const auto half = __builtin_convertvector(values, HalfVec<float>);
  if (n >= kStep) {
    std::memcpy(to, &half, sizeof(half));
  } else {
    std::memcpy(to, &half, static_cast<std::size_t>(n) * sizeof(float));
  }
}

// body(i, n) for each n elements from i on: kStep at a time, of which the compiler knows, and the rest.
template <class Body>
[[gnu::always_inline]] inline void for_steps(std::int64_t count, const Body& body) {
  std::int64_t i = 0;
  for (; i + kStep <= count; i += kStep) body(i, kStep);
  if (i < count) body(i, count - i);
}

// Moments after a gradient, and the update that they give.
struct Adam {
  Wide m;
  Wide v;
  Wide update;
};

// The step's factors, by value: what is written to memory cannot change them, nor need they be divided by.
struct Factors {
  Factors(const OrthoTensor& tensor, const AdamOptions& options)
      : fresh1(1.0 - options.beta1),
        beta2(options.beta2),
        fresh2(1.0 - options.beta2),
        eps(options.eps),
        corrected1(1.0 / tensor.correction1),
        corrected2(1.0 / tensor.correction2) {}

  double fresh1;
  double beta2;
  double fresh2;
  double eps;
  double corrected1;
  double corrected2;
};

[[gnu::always_inline]] inline Adam adam(const Factors& by, const OrthoTensor& tensor, Wide gradient, std::int64_t i,
                                        std::int64_t n) {
  Adam next{};
  const Wide m = read(tensor.exp_avg + i, n);
  next.m = m + by.fresh1 * (gradient - m);
  next.v = by.beta2 * read(tensor.exp_avg_sq + i, n) + by.fresh2 * gradient * gradient;
  // A lane beyond the end may be 0 / 0; it is not used.
  next.update = next.m * by.corrected1 / (root(next.v * by.corrected2) + by.eps);
  return next;
}

// What is to be projected: the gradient, or the update that it gives.
class GradientOf {
 public:
  explicit GradientOf(const OrthoTensor& tensor) : tensor_(tensor) {}
  [[gnu::always_inline]] Wide operator()(std::int64_t i, std::int64_t n) const { return read(tensor_.gradient + i, n); }

 private:
  OrthoTensor tensor_;
};

class UpdateOf {
 public:
  UpdateOf(const OrthoTensor& tensor, const AdamOptions& options) : tensor_(tensor), by_(tensor, options) {}
  [[gnu::always_inline]] Wide operator()(std::int64_t i, std::int64_t n) const {
    Wide update = adam(by_, tensor_, read(tensor_.gradient + i, n), i, n).update;
    for (std::int64_t lane = n; lane < kStep; ++lane) update[lane] = 0.0;
    return update;
  }

 private:
  OrthoTensor tensor_;
  Factors by_;
};

template <class Direction>
OrthoSums sums_of(const OrthoTensor& tensor, const Direction& direction) {
  Wide ww{};
  Wide wd{};
  Wide dd{};
  for_steps(tensor.count, [&](std::int64_t i, std::int64_t n) __attribute__((always_inline)) {
    const Wide w = read(tensor.weight + i, n);
    const Wide d = direction(i, n);
    ww += w * w;
    wd += w * d;
    dd += d * d;
  });
  return {.ww = lane_sum(ww), .wd = lane_sum(wd), .dd = lane_sum(dd)};
}

OrthoSums sums(const OrthoTensor& tensor, const AdamOptions* options) {
  return options == nullptr ? sums_of(tensor, GradientOf(tensor)) : sums_of(tensor, UpdateOf(tensor, *options));
}

template <class Direction>
double rest_of(const OrthoTensor& tensor, const Direction& direction, double along) {
  Wide sum{};
  for_steps(tensor.count, [&](std::int64_t i, std::int64_t n) __attribute__((always_inline)) {
    const Wide left = direction(i, n) - along * read(tensor.weight + i, n);
    sum += left * left;
  });
  return lane_sum(sum);
}

double rest(const OrthoTensor& tensor, const AdamOptions* options, double along) {
  return options == nullptr ? rest_of(tensor, GradientOf(tensor), along)
                            : rest_of(tensor, UpdateOf(tensor, *options), along);
}

void project(const OrthoTensor& at, const Projection& found) {
  const OrthoTensor tensor = at;  // by value, as Factors
  const Projection projection = found;
  for_steps(tensor.count, [&](std::int64_t i, std::int64_t n) __attribute__((always_inline)) {
    const Wide left = read(tensor.gradient + i, n) - projection.along * read(tensor.weight + i, n);
    write(projection.scale * left, tensor.gradient + i, n);
  });
}

template <bool ProjectUpdate>
void step_with(OrthoTensor tensor, const AdamOptions& options, Projection projection) {
  const double kept = 1.0 - options.lr * options.weight_decay;
  const double lr = options.lr;
  const Factors by(tensor, options);
  for_steps(tensor.count, [&](std::int64_t i, std::int64_t n) __attribute__((always_inline)) {
    const Wide w = read(tensor.weight + i, n);
    Wide gradient = read(tensor.gradient + i, n);
    if constexpr (!ProjectUpdate) gradient = projection.scale * (gradient - projection.along * w);
    Adam next = adam(by, tensor, gradient, i, n);
    if constexpr (ProjectUpdate) next.update = projection.scale * (next.update - projection.along * w);
    write(next.m, tensor.exp_avg + i, n);
    write(next.v, tensor.exp_avg_sq + i, n);
    write(w * kept - lr * next.update, tensor.weight + i, n);
  });
}

void step(const OrthoTensor& tensor, const AdamOptions& options, const Projection& projection) {
  if (options.project_update) {
    step_with<true>(tensor, options, projection);
  } else {
    step_with<false>(tensor, options, projection);
  }
}

constexpr OrthoKernels kKernels = {.sums = sums, .rest = rest, .project = project, .step = step};

}  // namespace

const OrthoKernels& ortho_kernels() { return kKernels; }

}  // namespace fluxcore::FLUXCORE_ISA
