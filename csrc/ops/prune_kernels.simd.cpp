#include "ops/prune_kernels.hpp"

#include "common/simd.hpp"
#include "ops/philox.hpp"
#include "ops/prune_bfloat16.hpp"
#include "ops/prune_vectors.hpp"

namespace fluxcore::FLUXCORE_ISA {
namespace {

// Bits of |x| as a float.
template <class T>
std::uint32_t magnitude_of(T x) {
  return bits_as<std::uint32_t>(static_cast<float>(to_compute(x))) & kMaxKey;
}

template <class T>
void magnitudes(const void* data, std::int64_t begin, std::int64_t count, std::uint32_t* keys) {
  const T* x = static_cast<const T*>(data) + begin;
  std::int64_t i = 0;
  for (; i + kVector <= count; i += kVector) store_words(bits_as<Words>(load(x + i)) & kMaxKey, keys + i);
  for (; i < count; ++i) keys[i] = magnitude_of(x[i]);
}

void magnitudes(DType dtype, const void* data, std::int64_t begin, std::int64_t count, std::uint32_t* keys) {
  if (dtype == DType::float32) {
    magnitudes<float>(data, begin, count, keys);
  } else if (dtype == DType::bfloat16) {
    magnitudes<BFloat16>(data, begin, count, keys);
  } else {
    magnitudes<Float16>(data, begin, count, keys);
  }
}

// Calls body(block, position in the stretch, first index in the block, number) for each block of 64 global indices
// that elements [begin, begin + count) touch.
template <class Body>
void for_philox_blocks(const PruneTensor& tensor, std::int64_t begin, std::int64_t count, const Body& body) {
  const std::int64_t first = tensor.offset + begin;
  for (std::int64_t at = 0; at < count;) {
    const std::int64_t within = (first + at) % kPhiloxBlock;
    const std::int64_t left = count - at;
    const std::int64_t n = left < kPhiloxBlock - within ? left : kPhiloxBlock - within;
    body((first + at) / kPhiloxBlock, at, within, n);
    at += n;
  }
}

void random_keys(const PruneTensor& tensor, std::uint64_t step, std::int64_t begin, std::int64_t count,
                 std::uint32_t* keys) {
  const PhiloxKey key(tensor.random_key);
  for_philox_blocks(tensor, begin, count,
                    [&](std::int64_t block, std::int64_t at, std::int64_t within, std::int64_t n) {
                      std::uint32_t words[kPhiloxBlock];
                      random_words(key, step, block, words);
                      for (std::int64_t i = 0; i < n; ++i) keys[at + i] = words[within + i] >> 1;
                    });
}

// Elements whose mask is not `wanted` are no candidates.
void keep_where(const std::uint8_t* mask, std::uint32_t wanted, std::int64_t count, std::uint32_t* keys) {
  std::int64_t i = 0;
  for (; i + kVector <= count; i += kVector) {
    const auto other = widen_bytes(mask + i) != wanted;
    store_words(load_words(keys + i) | bits_as<Words>(other), keys + i);
  }
  for (; i < count; ++i) keys[i] |= mask[i] == wanted ? 0U : kNoKey;
}

void keys_of(const PruneTensor& tensor, KeyKind kind, std::uint64_t step, std::int64_t begin, std::int64_t count,
             std::uint32_t* keys) {
  if (kind == KeyKind::random) {
    random_keys(tensor, step, begin, count, keys);
  } else if (kind == KeyKind::magnitude) {
    magnitudes(tensor.dtype, tensor.weight, begin, count, keys);
  } else {
    magnitudes(tensor.dtype, tensor.gradient, begin, count, keys);
    for (std::int64_t i = 0; i < count; ++i) keys[i] = keys[i] > 0x7f800000U ? kMaxKey : kMaxKey - keys[i];
  }
  // Without a mask all are active, and what wants inactive ones finds none.
  const std::uint32_t wanted = kind == KeyKind::magnitude ? 1 : 0;
  if (tensor.mask != nullptr) {
    keep_where(tensor.mask + begin, wanted, count, keys);
  } else if (wanted == 0) {
    for (std::int64_t i = 0; i < count; ++i) keys[i] = kNoKey;
  }
}

std::int64_t compress(const std::uint32_t* keys, std::int64_t count, int shift, std::uint32_t prefix,
                      std::uint32_t* out) {
  std::int64_t n = 0;
  std::int64_t i = 0;
#if defined(__AVX512F__)
  const __m512i wanted = _mm512_set1_epi32(static_cast<int>(prefix));
  const __m128i by = _mm_cvtsi32_si128(shift);
  for (; i + kVector <= count; i += kVector) {
    const __m512i words = _mm512_loadu_si512(keys + i);
    const __mmask16 match = _mm512_cmpeq_epi32_mask(_mm512_srl_epi32(words, by), wanted);
    _mm512_storeu_si512(out + n, _mm512_maskz_compress_epi32(match, words));
    n += __builtin_popcount(match);
  }
#endif
  for (; i < count; ++i) {
    out[n] = keys[i];
    n += keys[i] >> shift == prefix ? 1 : 0;
  }
  return n;
}

PruneSurvey survey(const std::uint32_t* keys, std::int64_t count, std::uint32_t low, std::uint32_t high,
                   std::uint32_t* out) {
  Words candidates{};
  Words below{};
  std::int64_t inside = 0;
  std::int64_t i = 0;
  for (; i + kVector <= count; i += kVector) {
    const Words words = load_words(keys + i);
    candidates -= bits_as<Words>(words <= kMaxKey);
    below -= bits_as<Words>(words < low);
    inside += append(keys + i, bits_as<Words>(words - low <= high - low), out + inside);
  }
  PruneSurvey found = {.candidates = lane_count(candidates), .below = lane_count(below), .inside = inside};
  for (; i < count; ++i) {
    found.candidates += keys[i] <= kMaxKey ? 1 : 0;
    found.below += keys[i] < low ? 1 : 0;
    if (keys[i] - low <= high - low) out[found.inside++] = keys[i];
  }
  return found;
}

std::int64_t below(const std::uint32_t* keys, std::int64_t count, std::uint32_t bound, std::uint8_t* chosen) {
  Words hits{};
  std::int64_t i = 0;
  for (; i + kVector <= count; i += kVector) {
    const auto hit = bits_as<Words>(load_words(keys + i) < bound);
    hits -= hit;
    store_flags(hit, chosen + i);
  }
  std::int64_t n = lane_count(hits);
  for (; i < count; ++i) {
    chosen[i] = keys[i] < bound ? 1 : 0;
    n += chosen[i];
  }
  return n;
}

template <class Element>
void clear_elements(void* data, std::int64_t count, const std::uint8_t* chosen) {
  auto* x = static_cast<Element*>(data);
  for (std::int64_t i = 0; i < count; ++i) x[i] = chosen[i] != 0 ? Element{0} : x[i];
}

void clear(void* data, int element_size, std::int64_t count, const std::uint8_t* chosen) {
  if (element_size == 2) {
    clear_elements<std::uint16_t>(data, count, chosen);
  } else if (element_size == 4) {
    clear_elements<std::uint32_t>(data, count, chosen);
  } else {
    clear_elements<std::uint64_t>(data, count, chosen);
  }
}

// Counters of Philox, as many more than the first one as said, of which an element is chosen; chosen[i] belongs to
// counter i / 4. Returns how many; out has room for all and a vector.
std::int64_t wanted_counters(const std::uint8_t* chosen, std::int64_t counters, std::uint32_t* out) {
  std::int64_t n = 0;
  for (std::int64_t counter = 0; counter < counters; ++counter) {
    std::uint32_t four = 0;
    std::memcpy(&four, chosen + 4 * counter, sizeof(four));
    out[n] = static_cast<std::uint32_t>(counter);
    n += four != 0 ? 1 : 0;
  }
  for (std::int64_t i = 0; i < kVector; ++i) out[n + i] = 0;
  return n;
}

// Puts the numbers where chosen; as many as the compiler knows, so that it takes them together.
template <int count, class Bits>
void put_chosen(const Bits* numbers, const std::uint8_t* chosen, Bits* to) {
  Bits mixed[count];
  for (int i = 0; i < count; ++i) {
    const auto all = static_cast<Bits>(-chosen[i]);  // ones, or zeros
    mixed[i] = static_cast<Bits>((numbers[i] & all) | (to[i] & ~all));
  }
  std::memcpy(to, mixed, sizeof(mixed));
}

template <class T>
void regrow_elements(const PruneTensor& tensor, std::uint64_t step, std::int64_t begin, std::int64_t count,
                     const std::uint8_t* chosen) {
  // As bits, so that what is not chosen stays as it is, a NaN's payload too.
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint16_t>;
  const std::int64_t index = tensor.offset + begin;
  const std::int64_t skipped = index % 4;  // elements of the first counter, which lie before
  Bits* x = static_cast<Bits*>(tensor.weight) + begin;
  std::uint8_t flags[kPruneBlock + 8] = {};
  std::memcpy(flags + skipped, chosen, static_cast<std::size_t>(count));
  std::uint32_t counters[kPruneBlock / 4 + 1 + kVector];
  const PhiloxKey key(tensor.random_key);
  const std::int64_t n = wanted_counters(flags, (skipped + count + 3) / 4, counters);
  for (std::int64_t at = 0; at < n; at += kVector) {
    float values[4 * kVector];
    normals(key, step, static_cast<std::uint64_t>(index / 4), counters + at, values);
    T rounded[4 * kVector];
    for (std::int64_t i = 0; i < 4 * kVector; i += kVector) store(load(values + i) * tensor.noise_std, rounded + i);
    Bits bits[4 * kVector];
    std::memcpy(bits, rounded, sizeof(bits));
    for (std::int64_t i = 0; i < kVector && at + i < n; ++i) {
      const std::int64_t four = 4 * static_cast<std::int64_t>(counters[at + i]);
      if (four >= skipped && four + 4 <= skipped + count) {
        put_chosen<4>(bits + 4 * i, flags + four, x + (four - skipped));
        continue;
      }
      for (std::int64_t j = four < skipped ? skipped - four : 0; j < 4 && four + j < skipped + count; ++j) {
        put_chosen<1>(bits + 4 * i + j, flags + four + j, x + (four + j - skipped));
      }
    }
  }
}

void regrow(const PruneTensor& tensor, std::uint64_t step, std::int64_t begin, std::int64_t count,
            const std::uint8_t* chosen) {
  if (tensor.dtype == DType::float32) {
    regrow_elements<float>(tensor, step, begin, count, chosen);
  } else if (tensor.dtype == DType::bfloat16) {
    regrow_elements<BFloat16>(tensor, step, begin, count, chosen);
  } else {
    regrow_elements<Float16>(tensor, step, begin, count, chosen);
  }
}

constexpr PruneKernels kKernels = {.keys = keys_of,
                                   .compress = compress,
                                   .survey = survey,
                                   .below = below,
                                   .survey_bfloat16 = survey_bfloat16,
                                   .below_bfloat16 = below_bfloat16,
                                   .all_but_largest = all_but_largest,
                                   .clear = clear,
                                   .regrow = regrow};

}  // namespace

const PruneKernels& prune_kernels() { return kKernels; }

}  // namespace fluxcore::FLUXCORE_ISA
