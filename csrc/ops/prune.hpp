#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "common/cpu.hpp"
#include "common/dtype.hpp"

// Exact magnitude selection over a list of tensors, and pruning and regrowing by it in place.
//
// Every element of a tensor may have a key of 31 bits, and what is chosen is the elements of smallest key, equal keys
// by place: first the order of the tensors, then the index. A selection ends in one Cut a tensor, which says of each
// element alone whether it is chosen, so that parts of a tensor can be treated apart.
namespace fluxcore {

enum class KeyKind {
  magnitude,  // of active elements: the bits of |w| as a float; NaN counts as larger than infinity
  gradient,   // of inactive elements: the largest |gradient| has the smallest key; NaN comes last
  random,     // of inactive elements: random bits
};

// Throws std::invalid_argument that lists the names, for another name.
KeyKind key_kind_from_name(std::string_view name);

struct PruneTensor {
  void* weight = nullptr;  // contiguous; float32, bfloat16 or float16
  DType dtype = DType::float32;
  std::uint8_t* mask = nullptr;    // bytes 0 or 1, 1 = active; none: all are active
  const void* gradient = nullptr;  // of the same dtype; for KeyKind::gradient
  std::int64_t count = 0;
  std::int64_t offset = 0;       // global index of the first element
  float noise_std = 0.0F;        // of regrown weights; 0: they become 0
  std::uint64_t random_key = 0;  // of Philox; stands for the tensor's name and the seed
};

// Chosen are the elements with key < this key, and of those with this key the ones of a smaller global index.
struct Cut {
  std::int64_t key;
  std::int64_t index;
};

struct SelectCall {
  std::vector<PruneTensor> tensors;
  KeyKind kind = KeyKind::magnitude;
  std::uint64_t step = 0;       // for KeyKind::random
  bool per_tensor = false;      // one selection a tensor; else one over all
  double fraction = 0.0;        // floor(fraction * elements that have a key) are chosen ...
  std::vector<std::int64_t> k;  // ... unless this gives the number, one for each selection
  bool ties = true;             // false: only the keys of the cuts are wanted
  int threads = 1;
  Isa isa = Isa::portable;
};

// Fills one cut a tensor. A selection of nothing has the cut {0, 0}.
// Throws std::invalid_argument if a k exceeds the number of elements, or for a dtype that is not supported.
void select_smallest(const SelectCall& call, Cut* cuts);

// Something of the weight's shape that is set to 0 where the weight is dropped or regrown, as the optimizer's moments.
struct PruneState {
  void* data = nullptr;
  int element_size = 4;  // bytes: 2, 4 or 8
  std::int64_t tensor = 0;
};

struct ApplyCall {
  std::vector<PruneTensor> tensors;
  std::vector<PruneState> states;
  const Cut* drop = nullptr;    // one a tensor, of KeyKind::magnitude; not read if there is a pattern
  const Cut* regrow = nullptr;  // one a tensor, of `regrow_kind`
  KeyKind regrow_kind = KeyKind::random;
  std::uint64_t step = 0;
  // A pattern: of each `group` consecutive elements all active ones but the `keep` largest are dropped. 0: none.
  int keep = 0;
  int group = 0;
  int threads = 1;
  Isa isa = Isa::portable;
};

// What became of a tensor.
struct PruneCounts {
  std::int64_t dropped;
  std::int64_t regrown;
  std::int64_t active;  // afterwards
};

// Drops and regrows in one pass: dropped weights become 0 and inactive, regrown ones get N(0, noise_std) and become
// active. Both cuts see the weights as they were. Fills one entry of counts a tensor.
// Throws std::invalid_argument, before anything is written, for a pattern that does not fit the tensors or of more than
// 2048 elements.
void prune_apply(const ApplyCall& call, PruneCounts* counts);

}  // namespace fluxcore
