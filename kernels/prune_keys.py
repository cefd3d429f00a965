"""Keys of weights, and normal numbers, as csrc/ops/philox.hpp and csrc/ops/prune.hpp define them.

A key has 31 bits; NO_KEY, which is negative, marks what is no candidate. KIND: 0 magnitude of active elements,
1 gradient of inactive ones (the largest first, NaN last), 2 random bits of inactive ones, 3 none at all.
"""

import triton
import triton.language as tl
from fluxcore.kernels.rows import THREADS

KINDS = {"magnitude": 0, "gradient": 1, "random": 2, "none": 3}
NO_KEY = tl.constexpr(-1)


@triton.jit
def words_of(counter, key, step, STREAM: tl.constexpr):
    # The four words of each counter.
    low = (counter & 0xFFFFFFFF).to(tl.uint32)
    high = ((counter >> 32) | (STREAM << 31)).to(tl.uint32)
    wide = tl.cast(step, tl.int64)
    step_low = tl.zeros_like(low) + (wide & 0xFFFFFFFF).to(tl.uint32)
    step_high = tl.zeros_like(low) + ((wide >> 32) & 0xFFFFFFFF).to(tl.uint32)
    return tl.philox(key, low, high, step_low, step_high)


@triton.jit
def sine_of_quarter(t):
    # sin(pi/2 t) for t within [0, 1], accurate also relative to itself.
    y = t * t
    tail = tl.fma(y, 5.69217292e-8, -3.59884324e-6)
    tail = tl.fma(y, tl.fma(y, tail, 1.60441185e-4), -0.00468175414)
    tail = tl.fma(y, tl.fma(y, tail, 0.0796926262), -0.645964098)
    return t * tl.fma(y, tail, 1.57079633)


@triton.jit
def normal_pair(first, second):
    # Box-Muller, cosine and sine. What is fused is said, so that all kernels round alike.
    # sqrt(-2 ln u), u = (first / 256 + 1) / 2^24 within (0, 1]; ln u = n ln 2 + 2 artanh(f / (2 + f)).
    u = ((first >> 8) + 1).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08
    bits = u.to(tl.int32, bitcast=True)
    n = (bits - 0x3F3504F3) >> 23
    f = (bits - (n << 23)).to(tl.float32, bitcast=True) - 1.0
    s = tl.div_rn(f, 2.0 + f)
    z = s * s
    tail = z * tl.fma(z, tl.fma(z, tl.fma(z, 0.111111111, 0.142857143), 0.2), 0.333333333)
    power = n.to(tl.float32)
    log = tl.fma(power, 0.693359375, tl.fma(2.0, s, tl.fma(2.0 * s, tail, power * -2.12194440e-4)))
    radius = tl.sqrt_rn(log * -2.0)
    t = ((second >> 8) & 0x3FFFFF).to(tl.int32).to(tl.float32) * 2.384185791015625e-07
    rising = sine_of_quarter(t)
    falling = sine_of_quarter(1.0 - t)
    quarter = (second >> 30).to(tl.int32)
    odd = (quarter & 1) == 1
    cosine = radius * tl.where(odd, rising, falling)
    sine = radius * tl.where(odd, falling, rising)
    return tl.where(((quarter + 1) & 2) == 2, -cosine, cosine), tl.where((quarter & 2) == 2, -sine, sine)


@triton.jit
def four_numbers(counter, key, step, NORMAL: tl.constexpr):
    # Of the four indices of each counter: normal numbers, or 31 random bits.
    a, b, c, d = words_of(counter, key, step, 1 if NORMAL else 0)
    if NORMAL:
        a, b = normal_pair(a, b)
        c, d = normal_pair(c, d)
    else:
        a, b, c, d = (a >> 1).to(tl.int32), (b >> 1).to(tl.int32), (c >> 1).to(tl.int32), (d >> 1).to(tl.int32)
    return a, b, c, d


@triton.jit
def numbers_of_run(counter, key, step, NORMAL: tl.constexpr, COUNT: tl.constexpr, STRIDE: tl.constexpr):
    # The four numbers of COUNT counters each, from `counter` on, side by side in dims after the first.
    if COUNT == 1:
        a, b, c, d = four_numbers(counter, key, step, NORMAL)
    else:
        a, b, c, d = numbers_of_run(counter, key, step, NORMAL, COUNT // 2, 2 * STRIDE)
        e, f, g, h = numbers_of_run(counter + STRIDE, key, step, NORMAL, COUNT // 2, 2 * STRIDE)
        a, b, c, d = tl.join(a, e), tl.join(b, f), tl.join(c, g), tl.join(d, h)
    return a, b, c, d


@triton.jit
def first_of(x, RUN: tl.constexpr):
    # Of each RUN consecutive elements the first.
    if RUN > 1:
        x, _ = tl.split(tl.reshape(x, [x.shape[0] // 2, 2]))
        x = first_of(x, RUN // 2)
    return x


@triton.jit
def numbers_of(index, key, step, NORMAL: tl.constexpr, RUN: tl.constexpr):
    # A number for each index. RUN: each so many indices follow upon each other, from one that 4 divides; they belong to
    # one thread, which makes four numbers at a time. 0: nothing is known, and each makes its own.
    if RUN > 0:
        a, b, c, d = numbers_of_run(first_of(index, RUN) >> 2, key, step, NORMAL, RUN // 4, 1)
        numbers = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), index.shape)
    else:
        a, b, c, d = four_numbers(index >> 2, key, step, NORMAL)
        even, front = (index & 1) == 0, (index & 2) == 0
        numbers = tl.where(front, tl.where(even, a, b), tl.where(even, c, d))
    return numbers


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
    KIND: tl.constexpr, HAS_MASK: tl.constexpr, RUN: tl.constexpr, WHOLE: tl.constexpr = False,
):  # fmt: skip
    # Keys of elements `places`, NO_KEY for those not `inside`; x is the weight or the gradient.
    if KIND == 2:
        keys = numbers_of(offset + places, key, step, False, RUN)
    else:
        keys = keys_of(load_some(x_ptr, places, inside, WHOLE), KIND)
    return tl.where(candidates_of(mask_ptr, places, inside, KIND, HAS_MASK, WHOLE), keys, NO_KEY)


def run_length(block: int, offset: int, stride: int = 4) -> int:
    """Consecutive elements that a thread has of a block, or 0 where no multiple of four begins them.

    The blocks begin `stride` elements, or a multiple of it, apart.
    """
    return block // THREADS if offset % 4 == 0 and stride % 4 == 0 else 0
