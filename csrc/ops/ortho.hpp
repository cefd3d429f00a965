#pragma once

#include <cstdint>
#include <vector>

#include "common/cpu.hpp"

// Steps along the part of a gradient that is perpendicular to the weight, over a list of float32 tensors. Everything is
// computed in double, elements too: where the gradient is all but parallel to the weight, their difference cancels.
namespace fluxcore {

struct OrthoTensor {
  float* weight = nullptr;
  float* gradient = nullptr;  // read; written by orthogonalize alone
  float* exp_avg = nullptr;
  float* exp_avg_sq = nullptr;
  std::int64_t count = 0;
  double correction1 = 1.0;  // 1 - beta1^step
  double correction2 = 1.0;  // 1 - beta2^step
};

struct AdamOptions {
  double lr = 0.0;
  double beta1 = 0.0;
  double beta2 = 0.0;
  double eps = 0.0;
  double weight_decay = 0.0;
  bool project_update = false;  // project m / (sqrt(v) + eps) in place of the gradient
};

// The perpendicular part of a direction d is scale * (d - along * w).
struct Projection {
  double along = 0.0;
  double scale = 1.0;
};

// gradient = its part perpendicular to weight, as long as the gradient was unless nearly nothing is left of it.
void orthogonalize(const std::vector<OrthoTensor>& tensors, int threads, Isa isa);

// One step of AdamW with the gradient, or the update, projected.
void ortho_adamw(const std::vector<OrthoTensor>& tensors, const AdamOptions& options, int threads, Isa isa);

}  // namespace fluxcore
