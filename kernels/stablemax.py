"""StableMax: the softmax of log sigma(x), where sigma(x) = x + 1 for x >= 0 and 1 / (1 - x) below.

With u = 1 + |x|, sigma is u or 1 / u, log sigma is log u or -log u, and the derivative of log sigma is 1 / u on either
side. Nothing can overflow, so sums of sigma are absolute, not relative to the largest.
"""

import triton
import triton.language as tl


@triton.jit
def reciprocal(u):
    # 1 / u to a few ulp for u >= 1, in a third of a division's instructions; 0 at infinity.
    if u.dtype == tl.float64:
        inverse = 1 / u
    else:
        root = tl.rsqrt(u)
        inverse = root * root
    return inverse


@triton.jit
def sigma(x):
    u = 1 + tl.abs(x)
    return tl.where(x >= 0, u, 1 / u)


@triton.jit
def sigma_of_tile(x):
    u = 1 + tl.abs(x)
    return tl.where(x >= 0, u, reciprocal(u))


@triton.jit
def log_sigma(x):
    v = tl.log(1 + tl.abs(x))
    return tl.where(x >= 0, v, -v)


@triton.jit
def slopes(x):
    # Derivatives of sigma and of log sigma.
    inverse = 1 / (1 + tl.abs(x))
    return tl.where(x >= 0, 1.0, inverse * inverse), inverse


@triton.jit
def slopes_of_tile(x):
    inverse = reciprocal(1 + tl.abs(x))
    return tl.where(x >= 0, 1.0, inverse * inverse), inverse


@triton.jit
def absorb_stable(m, c, s, k, r, b, x, weights, new, WEIGHTS: tl.constexpr):
    # `absorb` of row_scan.py with s = sum of sigma(x) over x < m, and b = sum of w log sigma (over x < m if it is
    # probabilities that are summed), neither relative to m.
    below = tl.minimum((x - new[:, :, None, None]) * -3e38, 1.0)
    up = new > m
    s = tl.where(up, s + c * sigma(m), s) + tl.sum(tl.sum(sigma_of_tile(x) * below, axis=3), axis=2)
    c = tl.where(up, 0.0, c) + (x.shape[2] * x.shape[3] - tl.sum(tl.sum(below, axis=3), axis=2))
    if WEIGHTS:
        under = weights
        if WEIGHTS & 4:
            under = weights * below
            b = tl.where(up & (k != 0), b + k * log_sigma(m), b)
            r = tl.where(up, r + k, r)
            k = tl.where(up, 0.0, k) + tl.sum(tl.sum(weights - under, axis=3), axis=2)
        b += tl.sum(tl.sum(tl.where(under == 0, 0.0, under * log_sigma(x)), axis=3), axis=2)
        r += tl.sum(tl.sum(under, axis=3), axis=2)
    return c, s, k, r, b


@triton.jit
def collapse_stable(m, c, s, k, r, b, WEIGHTS: tl.constexpr):
    # `collapse` of row_scan.py.
    top = tl.max(m, axis=0)
    same = m == top[None, :]
    if WEIGHTS & 4:
        b = tl.where(same | (k == 0), b, b + k * log_sigma(m))
        r = tl.where(same, r, r + k)
        k = tl.where(same, k, 0.0)
    s = tl.where(same, s, s + c * sigma(m))
    c = tl.where(same, c, 0.0)
    return top, tl.sum(c, axis=0), tl.sum(s, axis=0), tl.sum(k, axis=0), tl.sum(r, axis=0), tl.sum(b, axis=0)
