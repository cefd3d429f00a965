#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include "doctest.h"
#include "ops/prune.hpp"
#include "ops/prune_bracket.hpp"
#include "ops/prune_kernels.hpp"

using namespace fluxcore;

namespace {

constexpr std::int64_t kAll = std::numeric_limits<std::int64_t>::max();
using Floats = std::vector<float>;
using Flags = std::vector<std::uint8_t>;

Floats normals(std::size_t count, unsigned seed = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Floats x(count);
  for (float& value : x) value = normal(random);
  return x;
}

Flags mostly(std::size_t count, double share, unsigned seed = 2) {
  std::mt19937 random(seed);
  std::bernoulli_distribution active(share);
  Flags mask(count);
  for (auto& flag : mask) flag = active(random) ? 1 : 0;
  return mask;
}

PruneTensor tensor_of(Floats& x, Flags* mask = nullptr) {
  return {.weight = x.data(),
          .mask = mask == nullptr ? nullptr : mask->data(),
          .count = static_cast<std::int64_t>(x.size())};
}

struct Place {
  float size;
  std::int64_t tensor;
  std::int64_t index;
};

// The active elements, in the order in which they are chosen.
std::vector<Place> ordered(const std::vector<PruneTensor>& tensors) {
  std::vector<Place> places;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    for (std::int64_t i = 0; i < tensors[t].count; ++i) {
      if (tensors[t].mask != nullptr && tensors[t].mask[i] == 0) continue;
      const float size = std::fabs(static_cast<const float*>(tensors[t].weight)[i]);
      places.push_back({.size = size, .tensor = static_cast<std::int64_t>(t), .index = i});
    }
  }
  std::ranges::stable_sort(places, {}, &Place::size);
  return places;
}

std::uint32_t bits_of(float x) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

// Cuts over all tensors that choose the first k.
void check_global(const std::vector<PruneTensor>& tensors, double fraction, Isa isa, int threads = 2) {
  const auto places = ordered(tensors);
  const auto k = static_cast<std::size_t>(std::floor(fraction * static_cast<double>(places.size())));
  std::vector<Cut> cuts(tensors.size(), Cut{.key = -1, .index = -1});
  select_smallest({.tensors = tensors, .fraction = fraction, .k = {}, .threads = threads, .isa = isa}, cuts.data());
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    CAPTURE(t);
    if (k == 0) {
      CHECK(cuts[t].key == 0);
      CHECK(cuts[t].index == 0);
      continue;
    }
    const Place& last = places[k - 1];
    const auto own = static_cast<std::int64_t>(t);
    CHECK(cuts[t].key == bits_of(last.size));
    CHECK(cuts[t].index == (own < last.tensor ? kAll : own == last.tensor ? last.index + 1 : 0));
  }
}

}  // namespace

TEST_CASE("a selection over all tensors is what sorting gives") {
  for (const Isa isa : available_isas()) {
    for (const std::size_t count : {std::size_t{3}, std::size_t{5000}, std::size_t{70'001}, std::size_t{300'007}}) {
      CAPTURE(count);
      Floats a = normals(count);
      Floats b = normals(1001, 5);
      Floats none;
      for (std::size_t i = 0; i < count; i += 3) a[i] = 0.25F;  // a third is equal
      Flags mask = mostly(count, 0.6);
      Flags all(1001, 1);
      for (const double fraction : {0.0, 0.001, 0.1, 0.35, 0.5, 0.999, 1.0}) {
        CAPTURE(fraction);
        check_global({tensor_of(a, &mask), tensor_of(none), tensor_of(b, &all)}, fraction, isa);
        check_global({tensor_of(b), tensor_of(a)}, fraction, isa, 1);
      }
    }
  }
}

TEST_CASE("a sample that misleads costs time and nothing else") {
  const std::size_t count = 200'000;
  const auto places = sample_places(static_cast<std::int64_t>(count));
  REQUIRE(std::ranges::is_sorted(places));
  REQUIRE(places.back() + kSampleRun <= static_cast<std::int64_t>(count));
  Floats x = normals(count);
  for (const std::int64_t place : places) {
    for (std::int64_t i = place; i < place + kSampleRun; ++i) x[static_cast<std::size_t>(i)] += 1000.0F;
  }
  Cut cut{};
  for (const Isa isa : available_isas()) {
    const SelectCall call = {.tensors = {tensor_of(x)}, .fraction = 0.5, .k = {}, .isa = isa};
    CHECK(select_by_bracket(call, &cut) == std::vector<std::size_t>{0});
    check_global({tensor_of(x)}, 0.5, isa);
  }
}

TEST_CASE("a sample brackets most weights, and not those that are nearly all equal") {
  Floats spread = normals(500'000);
  Floats equal(500'000, 0.5F);
  Cut cuts[2] = {};
  const SelectCall call = {
      .tensors = {tensor_of(spread), tensor_of(equal)}, .per_tensor = true, .fraction = 0.3, .k = {}};
  CHECK(select_by_bracket(call, cuts) == std::vector<std::size_t>{1});
  select_smallest(call, cuts);
  CHECK(cuts[0].key == bits_of(ordered({tensor_of(spread)})[149'999].size));
  CHECK(cuts[1].key == bits_of(0.5F));
  CHECK(cuts[1].index == 150'000);
}

TEST_CASE("numbers to choose may be given, one for each selection") {
  Floats a = normals(100'000);
  Floats b = normals(70'000, 3);
  const std::vector<PruneTensor> tensors = {tensor_of(a), tensor_of(b)};
  Cut cuts[2] = {};
  select_smallest({.tensors = tensors, .per_tensor = true, .k = {1, 70'000}, .ties = false}, cuts);
  CHECK(cuts[0].key == bits_of(ordered({tensors[0]}).front().size));
  CHECK(cuts[1].key == bits_of(ordered({tensors[1]}).back().size));
  CHECK_THROWS_AS(select_smallest({.tensors = tensors, .k = {170'001}}, cuts), std::invalid_argument);
  CHECK_THROWS_AS(select_smallest({.tensors = tensors, .per_tensor = true, .k = {5}}, cuts), std::invalid_argument);
}

TEST_CASE("every instruction set gives the same keys, flags and noise") {
  const std::size_t count = 2048;
  const PruneKernels& narrow = prune_kernels(Isa::portable);
  for (const Isa isa : available_isas()) {
    const PruneKernels& wide = prune_kernels(isa);
    for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
      for (const std::int64_t n : {std::int64_t{2048}, std::int64_t{61}, std::int64_t{3}}) {
        Floats values = normals(count + 8);
        Flags mask = mostly(count + 8, 0.5);
        if (dtype != DType::float32) {
          for (float& value : values) {  // two numbers, neither of them a NaN
            const std::uint32_t halves = bits_of(value) & 0xbfffbfffU;
            std::memcpy(&value, &halves, sizeof(halves));
          }
        }
        PruneTensor tensor = tensor_of(values, &mask);
        tensor.dtype = dtype;
        tensor.gradient = values.data();
        tensor.offset = 77;
        tensor.random_key = 0x123456789abcdefULL;
        tensor.noise_std = 0.3F;
        for (const KeyKind kind : {KeyKind::magnitude, KeyKind::gradient, KeyKind::random}) {
          std::vector<std::uint32_t> keys(count), others(count), inside(count + 16), same(count + 16);
          narrow.keys(tensor, kind, 9, 5, n, keys.data());
          wide.keys(tensor, kind, 9, 5, n, others.data());
          CHECK(keys == others);
          const std::uint32_t low = 0x20000000U;
          const std::uint32_t high = 0x3f400000U;
          const PruneSurvey found = narrow.survey(keys.data(), n, low, high, inside.data());
          const PruneSurvey again = wide.survey(keys.data(), n, low, high, same.data());
          const auto end = keys.begin() + n;
          CHECK(found.candidates == std::count_if(keys.begin(), end, [](auto key) { return key <= kMaxKey; }));
          CHECK(found.below == std::count_if(keys.begin(), end, [&](auto key) { return key < low; }));
          CHECK(found.candidates == again.candidates);
          CHECK(found.below == again.below);
          REQUIRE(found.inside == again.inside);
          CHECK(std::equal(inside.begin(), inside.begin() + found.inside, same.begin()));
          Flags chosen(count, 9), flags(count, 9);
          CHECK(narrow.below(keys.data(), n, high, chosen.data()) == wide.below(keys.data(), n, high, flags.data()));
          CHECK(chosen == flags);
        }
        Floats noisy = values;
        Flags chosen = mostly(count, 0.2, 7);
        narrow.regrow(tensor, 9, 5, n, chosen.data());
        std::swap(noisy, values);
        tensor.weight = values.data();
        wide.regrow(tensor, 9, 5, n, chosen.data());
        for (std::size_t i = 0; i < count; ++i) {
          CHECK(std::isnan(noisy[i]) == std::isnan(values[i]));
          // The logarithm and the sine may be fused or not.
          if (dtype == DType::float32) CHECK(values[i] == doctest::Approx(noisy[i]).epsilon(1e-6));
        }
      }
    }
  }
}

TEST_CASE("of each group all but the largest are chosen, of equal ones the first") {
  std::mt19937 random(4);
  std::uniform_int_distribution<int> few(0, 6);
  for (const Isa isa : available_isas()) {
    for (const int group : {1, 2, 4, 5, 8}) {
      for (int keep = 0; keep <= group; ++keep) {
        std::vector<std::uint32_t> keys(static_cast<std::size_t>(group) * 203);
        for (auto& key : keys) {
          const int drawn = few(random);
          key = drawn == 6 ? kNoKey : static_cast<std::uint32_t>(drawn);
        }
        Flags chosen(keys.size(), 9);
        const auto count = static_cast<std::int64_t>(keys.size());
        const std::int64_t n = prune_kernels(isa).all_but_largest(keys.data(), count, keep, group, chosen.data());
        CHECK(n == std::count(chosen.begin(), chosen.end(), 1));
        for (std::size_t begin = 0; begin < keys.size(); begin += static_cast<std::size_t>(group)) {
          std::vector<std::size_t> active;
          for (std::size_t i = begin; i < begin + static_cast<std::size_t>(group); ++i) {
            if (keys[i] != kNoKey) active.push_back(i);
            if (keys[i] == kNoKey) CHECK(chosen[i] == 0);
          }
          std::ranges::stable_sort(active, {}, [&](std::size_t i) { return keys[i]; });
          const auto kept = std::min(active.size(), static_cast<std::size_t>(keep));
          for (std::size_t rank = 0; rank < active.size(); ++rank) {
            CHECK(chosen[active[rank]] == (rank + kept < active.size() ? 1 : 0));
          }
        }
      }
    }
  }
}

TEST_CASE("drop and regrow touch what is chosen, its moments, and nothing else") {
  for (const Isa isa : available_isas()) {
    Floats x = normals(10'000);
    Flags mask = mostly(x.size(), 0.5);
    std::vector<std::uint64_t> moments(x.size(), 1);
    const Floats before = x;
    const Flags were = mask;
    const std::vector<PruneTensor> tensors = {[&] {
      PruneTensor tensor = tensor_of(x, &mask);
      tensor.noise_std = 0.1F;
      return tensor;
    }()};
    Cut drop{};
    Cut grow{};
    select_smallest({.tensors = tensors, .fraction = 0.2, .k = {}, .isa = isa}, &drop);
    select_smallest({.tensors = tensors, .kind = KeyKind::random, .fraction = 0.3, .k = {}, .isa = isa}, &grow);
    PruneCounts counts{};
    prune_apply({.tensors = tensors,
                 .states = {{.data = moments.data(), .element_size = 8, .tensor = 0}},
                 .drop = &drop,
                 .regrow = &grow,
                 .threads = 2,
                 .isa = isa},
                &counts);
    const auto active = std::count(were.begin(), were.end(), 1);
    CHECK(counts.dropped == active / 5);
    CHECK(counts.regrown == static_cast<std::int64_t>(0.3 * static_cast<double>(10'000 - active)));
    CHECK(counts.active == std::count(mask.begin(), mask.end(), 1));
    CHECK(counts.active == active - counts.dropped + counts.regrown);
    for (std::size_t i = 0; i < x.size(); ++i) {
      CHECK(moments[i] == (mask[i] == were[i] ? 1 : 0));
      if (mask[i] == were[i]) CHECK(x[i] == before[i]);
      if (mask[i] < were[i]) CHECK(x[i] == 0.0F);
    }
  }
}

TEST_CASE("what cannot be done is refused before anything is written") {
  Floats x = normals(10);
  const Floats before = x;
  const Cut none{};
  PruneCounts counts{};
  const auto with_pattern = [&](int keep, int group) {
    prune_apply({.tensors = {tensor_of(x)}, .states = {}, .drop = &none, .regrow = &none, .keep = keep, .group = group},
                &counts);
  };
  CHECK_THROWS_AS(with_pattern(2, 4), std::invalid_argument);
  CHECK_THROWS_AS(with_pattern(6, 5), std::invalid_argument);
  CHECK_THROWS_AS(with_pattern(-1, 5), std::invalid_argument);
  CHECK_THROWS_AS(with_pattern(1, 5000), std::invalid_argument);
  CHECK_THROWS_AS(key_kind_from_name("size"), std::invalid_argument);
  CHECK(x == before);
  with_pattern(1, 5);
  CHECK(counts.dropped == 8);
}
