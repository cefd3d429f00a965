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
Wide read(const float* from, std::int64_t n) {
  HalfVec<float> half{};
  if (n >= kStep) {
    std::memcpy(&half, from, sizeof(half));
  } else {
    std::memcpy(&half, from, static_cast<std::size_t>(n) * sizeof(float));
  }
  return __builtin_convertvector(half, Wide);
}

void write(Wide values, float* to, std::int64_t n) {
  const auto half = __builtin_convertvector(values, HalfVec<float>);
  if (n >= kStep) {
    std::memcpy(to, &half, sizeof(half));
  } else {
    std::memcpy(to, &half, static_cast<std::size_t>(n) * sizeof(float));
  }
}

// Moments after a gradient, and the update that they give.
struct Adam {
  Wide m;
  Wide v;
  Wide update;
};

Adam adam(const OrthoTensor& tensor, const AdamOptions& options, Wide gradient, std::int64_t i, std::int64_t n) {
  Adam next{};
  const Wide m = read(tensor.exp_avg + i, n);
  next.m = m + (1.0 - options.beta1) * (gradient - m);
  next.v = options.beta2 * read(tensor.exp_avg_sq + i, n) + (1.0 - options.beta2) * gradient * gradient;
  // A lane beyond the end may be 0 / 0; it is not used.
  next.update = next.m / tensor.correction1 / (root(next.v / tensor.correction2) + options.eps);
  return next;
}

Wide direction(const OrthoTensor& tensor, const AdamOptions* options, std::int64_t i, std::int64_t n) {
  const Wide gradient = read(tensor.gradient + i, n);
  if (options == nullptr) return gradient;
  Wide update = adam(tensor, *options, gradient, i, n).update;
  for (std::int64_t lane = n; lane < kStep; ++lane) update[lane] = 0.0;
  return update;
}

OrthoSums sums(const OrthoTensor& tensor, const AdamOptions* options) {
  Wide ww{};
  Wide wd{};
  Wide dd{};
  for (std::int64_t i = 0; i < tensor.count; i += kStep) {
    const std::int64_t n = tensor.count - i;
    const Wide w = read(tensor.weight + i, n);
    const Wide d = direction(tensor, options, i, n);
    ww += w * w;
    wd += w * d;
    dd += d * d;
  }
  return {.ww = lane_sum(ww), .wd = lane_sum(wd), .dd = lane_sum(dd)};
}

double rest(const OrthoTensor& tensor, const AdamOptions* options, double along) {
  Wide sum{};
  for (std::int64_t i = 0; i < tensor.count; i += kStep) {
    const std::int64_t n = tensor.count - i;
    const Wide left = direction(tensor, options, i, n) - along * read(tensor.weight + i, n);
    sum += left * left;
  }
  return lane_sum(sum);
}

void project(const OrthoTensor& tensor, const Projection& projection) {
  for (std::int64_t i = 0; i < tensor.count; i += kStep) {
    const std::int64_t n = tensor.count - i;
    const Wide left = read(tensor.gradient + i, n) - projection.along * read(tensor.weight + i, n);
    write(projection.scale * left, tensor.gradient + i, n);
  }
}

template <bool ProjectUpdate>
void step_with(const OrthoTensor& tensor, const AdamOptions& options, const Projection& projection) {
  const double kept = 1.0 - options.lr * options.weight_decay;
  for (std::int64_t i = 0; i < tensor.count; i += kStep) {
    const std::int64_t n = tensor.count - i;
    const Wide w = read(tensor.weight + i, n);
    Wide gradient = read(tensor.gradient + i, n);
    if constexpr (!ProjectUpdate) gradient = projection.scale * (gradient - projection.along * w);
    Adam next = adam(tensor, options, gradient, i, n);
    if constexpr (ProjectUpdate) next.update = projection.scale * (next.update - projection.along * w);
    write(next.m, tensor.exp_avg + i, n);
    write(next.v, tensor.exp_avg_sq + i, n);
    write(w * kept - options.lr * next.update, tensor.weight + i, n);
  }
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
