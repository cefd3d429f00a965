"""The two yardsticks for accuracy. Neither has a tolerance that could be tuned."""

import torch
from torch import Tensor


def assert_no_less_accurate(ours: Tensor, *, than: Tensor, exact: Tensor) -> None:
    """Check that `ours` is at most twice as wrong as `than`, plus one ulp of the output.

    `than` is what naive PyTorch gives (half types computed in float32 and rounded once, as a careful user would),
    `exact` the float64 truth for the very same input. Errors are the largest over all elements, so give it enough of
    them that neither side is right by luck; the ulp is that of our dtype at the largest |exact|. Where the truth is NaN
    or infinite ours must be the same, and must be finite elsewhere. A float64 result has no truth to be held against
    but another float64 result, so it must only agree to 12 digits.
    """
    finite = _same_where_not_finite(ours, exact)
    if ours.dtype == torch.float64:
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-13, equal_nan=True)
        return
    if not finite.any():
        return
    error, naive_error = ((value.double() - exact).abs()[finite] for value in (ours, than))
    # Naive PyTorch may be NaN where the truth is not; that is no licence.
    naive_worst = naive_error.nan_to_num(nan=0).max()
    ulp = torch.finfo(ours.dtype).eps * exact[finite].abs().max()
    allowed = 2 * naive_worst + ulp
    worst = error.max()
    assert worst <= allowed, f"off by {worst:.3e}; naive PyTorch by {naive_worst:.3e}, one ulp is {ulp:.3e}"


def assert_relatively_accurate(ours: Tensor, *, exact: Tensor, margin: float) -> None:
    """Check the relative error of every element, where naive PyTorch has lost all digits and is no yardstick.

    Allowed are 8 ulp for the sums, quotients and logarithms, and one more for each unit of `margin`, the distance of
    the other logits from the largest: e^-margin inherits the rounding of its exponent.
    """
    finite = _same_where_not_finite(ours, exact)
    error = (ours.double() - exact).abs()[finite]
    allowed = (8 + margin) * torch.finfo(ours.dtype).eps * exact.abs()[finite]
    excess = error - allowed
    assert (excess <= 0).all(), f"worst by {excess.max():.3e} at {exact[finite][excess.argmax()]:.6e}"


def _same_where_not_finite(ours: Tensor, exact: Tensor) -> Tensor:
    assert ours.shape == exact.shape
    assert exact.dtype == torch.float64
    finite = exact.isfinite()
    torch.testing.assert_close(ours[~finite].double(), exact[~finite], equal_nan=True, rtol=0, atol=0)
    assert ours[finite].isfinite().all()
    return finite
