"""Keys of weights, and normal numbers, as csrc/ops/philox.hpp and csrc/ops/prune.hpp define them.

A key has 31 bits; NO_KEY, which is negative, marks what is no candidate. KIND: 0 magnitude of active elements,
1 gradient of inactive ones (the largest first, NaN last), 2 random bits of inactive ones, 3 none at all.
"""

import triton
import triton.language as tl

KINDS = {"magnitude": 0, "gradient": 1, "random": 2, "none": 3}
NO_KEY = tl.constexpr(-1)


@triton.jit
def words_of(index, key, step, STREAM: tl.constexpr):
    # The four words of each index' counter, and which of them is its own.
    counter = (index >> 6) * 16 + (index & 15)
    low = (counter & 0xFFFFFFFF).to(tl.uint32)
    high = ((counter >> 32) | (STREAM << 31)).to(tl.uint32)
    wide = tl.cast(step, tl.int64)
    step_low = tl.zeros_like(low) + (wide & 0xFFFFFFFF).to(tl.uint32)
    step_high = tl.zeros_like(low) + ((wide >> 32) & 0xFFFFFFFF).to(tl.uint32)
    a, b, c, d = tl.philox(key, low, high, step_low, step_high)
    return a, b, c, d, (index >> 4) & 3


@triton.jit
def random_bits(index, key, step):
    a, b, c, d, word = words_of(index, key, step, 0)
    own = tl.where(word < 2, tl.where(word == 0, a, b), tl.where(word == 2, c, d))
    return (own >> 1).to(tl.int32)


@triton.jit
def sine_of_quarter(t):
    # sin(pi/2 t) for t within [0, 1], accurate also relative to itself.
    y = t * t
    tail = -3.59884324e-6 + y * 5.69217292e-8
    tail = -0.00468175414 + y * (1.60441185e-4 + y * tail)
    tail = -0.645964098 + y * (0.0796926262 + y * tail)
    return t * (1.57079633 + y * tail)


@triton.jit
def normals(index, key, step):
    # Box-Muller: words 0 and 1 of a counter (2 and 3) make the cosine and the sine.
    a, b, c, d, word = words_of(index, key, step, 1)
    first = tl.where(word < 2, a, c)
    second = tl.where(word < 2, b, d)
    # sqrt(-2 ln u), u = (first / 256 + 1) / 2^24 within (0, 1]; ln u = n ln 2 + 2 artanh(f / (2 + f)).
    u = ((first >> 8) + 1).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08
    bits = u.to(tl.int32, bitcast=True)
    n = (bits - 0x3F3504F3) >> 23
    f = (bits - (n << 23)).to(tl.float32, bitcast=True) - 1.0
    s = tl.div_rn(f, 2.0 + f)
    z = s * s
    tail = z * (0.333333333 + z * (0.2 + z * (0.142857143 + z * 0.111111111)))
    power = n.to(tl.float32)
    log = power * 0.693359375 + (2.0 * s + (2.0 * s * tail + power * -2.12194440e-4))
    radius = tl.sqrt_rn(log * -2.0)
    t = ((second >> 8) & 0x3FFFFF).to(tl.int32).to(tl.float32) * 2.384185791015625e-07
    rising = sine_of_quarter(t)
    falling = sine_of_quarter(1.0 - t)
    quarter = (second >> 30).to(tl.int32)
    # The sine of a quarter turn more is the cosine.
    turned = quarter + 1 - (word & 1).to(tl.int32)
    value = radius * tl.where((turned & 1) == 1, falling, rising)
    return tl.where((turned & 2) == 2, -value, value)


@triton.jit
def keys_of(x, KIND: tl.constexpr):
    # Of weights (KIND 0) or gradients (1).
    keys = x.to(tl.float32).to(tl.int32, bitcast=True) & 0x7FFFFFFF
    if KIND == 1:
        keys = tl.where(keys > 0x7F800000, 0x7FFFFFFF, 0x7FFFFFFF - keys)
    return keys


@triton.jit
def load_some(x_ptr, places, inside, WHOLE: tl.constexpr):
    # x at `places` where `inside`, else 0; WHOLE: all are, which the compiler cannot know and loads by vectors.
    return tl.load(x_ptr + places) if WHOLE else tl.load(x_ptr + places, mask=inside, other=0.0)


@triton.jit
def candidates_of(mask_ptr, places, inside, KIND: tl.constexpr, HAS_MASK: tl.constexpr, WHOLE: tl.constexpr):
    # Which elements may have a key. Without a mask all are active.
    if HAS_MASK:
        active = load_some(mask_ptr, places, inside, WHOLE) != 0
        found = inside & (active if KIND == 0 else (active == 0))
    elif KIND == 0:
        found = inside
    else:
        found = inside & (places < 0)
    return found


@triton.jit
def load_keys(
    x_ptr, mask_ptr, places, inside, offset, key, step,
    KIND: tl.constexpr, HAS_MASK: tl.constexpr, WHOLE: tl.constexpr = False,
):  # fmt: skip
    # Keys of elements `places`, NO_KEY for those not `inside`; x is the weight or the gradient.
    if KIND == 2:
        keys = random_bits(offset + places, key, step)
    else:
        keys = keys_of(load_some(x_ptr, places, inside, WHOLE), KIND)
    return tl.where(candidates_of(mask_ptr, places, inside, KIND, HAS_MASK, WHOLE), keys, NO_KEY)
