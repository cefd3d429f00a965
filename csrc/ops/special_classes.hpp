#pragma once

#include <cstdint>

#include "ops/softmax_kernels.hpp"

namespace fluxcore {

// The few classes of a row at which the sweep's gradient is replaced: target, argmax, top k. Their values are made
// before the sweep, which may write over the logits that they are made of.
class SpecialClasses {
 public:
  void add(std::int64_t index, double value) {
    index_[count_] = index;
    value_[count_++] = value;
  }

  void write(const SoftmaxKernels& kernels, void* gradient) const {
    for (int i = 0; i < count_; ++i) kernels.write(gradient, index_[i], value_[i]);
  }

 private:
  int count_ = 0;
  std::int64_t index_[kMaxTopK + 2];
  double value_[kMaxTopK + 2];
};

}  // namespace fluxcore
