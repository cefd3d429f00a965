"""`gae` on every backend against the definition in float64, and against loops over single trajectories."""

import pytest
import torch

import fluxcore
from fluxcore import reference

OPTIONS = {"gamma": 0.97, "lam": 0.9}


def steps(device, shape=(5, 3, 2), time_dim=1, dtype=torch.float32):
    """Rewards, values, dones and bootstrap."""
    rewards, values = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
    dones = torch.rand(shape, device=device) < 0.1
    return rewards, values, dones, torch.randn(rewards.select(time_dim, 0).shape, device=device)


def truth(rewards, values, dones, bootstrap, ratio=None, **options):
    ratio = ratio if ratio is None else ratio.double()
    dones = dones.double()
    return reference.gae(
        rewards.double(), values.double(), dones, bootstrap=bootstrap.double(), ratio=ratio, **OPTIONS, **options
    )


@pytest.mark.parametrize(
    ("shape", "time_dim", "dtype"),
    [
        *(((3, 70), -1, dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)),
        *(((40, 70), 0, dtype) for dtype in (torch.float32, torch.float64)),
        ((35, 3), 0, torch.bfloat16),
        ((2, 35, 9), 1, torch.float32),
        ((19, 1), 1, torch.float32),
        ((9,), 0, torch.float32),
    ],
    ids=str,
)
def test_every_shape_and_dtype(shape, time_dim, dtype, device):
    rewards, values, dones, bootstrap = steps(device, shape, time_dim, dtype)
    found = fluxcore.gae(rewards, values, dones, bootstrap=bootstrap, time_dim=time_dim, **OPTIONS)
    expected = truth(rewards, values, dones, bootstrap, time_dim=time_dim)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for ours, exact in zip(found, expected, strict=True):
        assert ours.dtype == wide
        torch.testing.assert_close(ours, exact.to(wide))


@pytest.mark.parametrize("time_dim", [0, -1])
@pytest.mark.parametrize("with_ratio", [False, True], ids=["on-policy", "clipped"])
@pytest.mark.parametrize("float_dones", [False, True], ids=["bool", "float"])
def test_masks_clips_and_soft_ends(time_dim, with_ratio, float_dones, device):
    shape = (35, 9) if time_dim == 0 else (9, 35)
    rewards, values, dones, bootstrap = steps(device, shape, time_dim)
    dones = torch.rand(shape, device=device) * (torch.rand(shape, device=device) < 0.3) if float_dones else dones
    mask = torch.rand(shape, device=device) < 0.7
    ratio = torch.rand(shape, device=device) * 3 if with_ratio else None
    options = {"mask": mask, "ratio": ratio, "time_dim": time_dim}
    options |= {"rho_clip": 1.5, "c_clip": 0.8} if with_ratio else {}
    nowhere = torch.where(mask, rewards, torch.nan)  # what is left out is not looked at
    found = fluxcore.gae(nowhere, values, dones, bootstrap=bootstrap, **OPTIONS, **options)
    expected = truth(rewards, values, dones, bootstrap, **options)
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, exact.float())
        assert (ours[~mask] == 0).all()


def test_a_masked_trajectory_is_that_of_its_steps_alone(device):
    rewards, values, dones, bootstrap = steps(device, (4, 60), -1)
    lengths, starts = (7, 60, 1, 30), (3, 0, 59, 12)
    mask = torch.zeros(4, 60, dtype=torch.int64, device=device)
    for row, (start, n) in enumerate(zip(starts, lengths, strict=True)):
        mask[row, start : start + n] = 1
    found = fluxcore.gae(rewards, values, dones, bootstrap=bootstrap, mask=mask, **OPTIONS)
    for row, (start, n) in enumerate(zip(starts, lengths, strict=True)):
        part = slice(start, start + n)
        alone = fluxcore.gae(
            rewards[row, part], values[row, part], dones[row, part], bootstrap=bootstrap[row], **OPTIONS
        )
        for ours, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(ours[row, part], expected)


def test_nothing_crosses_the_end_of_an_episode(device):
    rewards, values, _, bootstrap = steps(device, (3, 50), -1)
    dones = torch.zeros(3, 50, dtype=torch.bool, device=device)
    dones[:, 20] = dones[:, -1] = True
    bootstrap[0] = torch.nan
    rewards[1, 30] = torch.inf
    values[2, 21] = torch.nan
    advantages, _ = fluxcore.gae(rewards, values, dones, bootstrap=bootstrap, **OPTIONS)
    assert advantages[:, :21].isfinite().all()
    assert advantages[0].isfinite().all()
    assert advantages[2, 21].isnan()


def test_special_cases_of_the_definition(device):
    rewards, values, _, bootstrap = steps(device, (2, 30), -1, torch.float64)
    never = torch.zeros(2, 30, device=device)
    one_step, _ = fluxcore.gae(rewards, values, never, bootstrap=bootstrap, gamma=0.9, lam=0.0)
    after = torch.cat([values[:, 1:], bootstrap.double()[:, None]], 1)
    torch.testing.assert_close(one_step, rewards + 0.9 * after - values)
    _, returns = fluxcore.gae(rewards, values, never, bootstrap=0.0, gamma=1.0, lam=1.0)
    torch.testing.assert_close(returns, rewards.flip(1).cumsum(1).flip(1))


def test_both_layouts_are_bitwise_the_same_on_one_backend(device):
    rewards, values, dones, bootstrap = steps(device, (11, 40), -1)
    rows = fluxcore.gae(rewards, values, dones, bootstrap=bootstrap, **OPTIONS)
    columns = fluxcore.gae(*(x.t() for x in (rewards, values, dones)), bootstrap=bootstrap, time_dim=0, **OPTIONS)
    for a, b in zip(rows, columns, strict=True):
        if fluxcore.backends.resolve_backend(device) == "triton":  # tiles of other lengths
            torch.testing.assert_close(a, b.t())
        else:
            assert torch.equal(a, b.t())


def test_empty_batches_and_no_time(device):
    for shape in [(0, 5), (5, 0)]:
        empty = torch.zeros(shape, device=device)
        advantages, returns = fluxcore.gae(
            empty, empty, empty, bootstrap=torch.zeros(shape[0], device=device), **OPTIONS
        )
        assert advantages.shape == returns.shape == shape


def test_as_an_op(device):
    rewards, values, dones, bootstrap = steps(device, (2, 9, 3), 1)
    mask, ratio = torch.rand_like(rewards) < 0.8, torch.rand_like(rewards)
    call = (rewards, values, dones, bootstrap, mask, ratio, 0.9, 0.8, 1.0, 1.0)
    torch.library.opcheck(torch.ops.fluxcore.gae, call)


# Third parties warn while Inductor is imported.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiles_without_a_graph_break(device):
    def normalised(rewards, values, dones):
        advantages, returns = fluxcore.gae(rewards, values, dones, bootstrap=0.0, time_dim=0, **OPTIONS)
        return (advantages - advantages.mean()) / advantages.std(), returns

    rewards, values, dones, _ = steps(device, (20, 6), 0)
    expected = normalised(rewards, values, dones)
    torch.testing.assert_close(torch.compile(normalised, fullgraph=True)(rewards, values, dones), expected)
    torch.compiler.reset()


STEPS = torch.zeros(2, 4)


@pytest.mark.parametrize(
    ("error", "message", "changes"),
    [
        (ValueError, r"`values` must have the shape of `rewards`, \(2, 4\), got \(2, 3\)", {"values": STEPS[:, :3]}),
        (ValueError, "`dones` must be on the device of `rewards`, cpu, got meta", {"dones": STEPS.to("meta")}),
        (TypeError, "`rewards` must be float32, .*, got torch.int64", {"rewards": STEPS.long()}),
        (TypeError, r"`mask` must be bool or integer, got torch.float32\n\nWrite `mask != 0`", {"mask": STEPS}),
        (TypeError, "`dones` must be bool, integer or floating point, got torch.complex64", {"dones": STEPS.cfloat()}),
        (TypeError, "`values` must be a tensor, got list", {"values": [[0.0]]}),
        (ValueError, "`values` must not require grad.*\n\n.*detach", {"values": torch.ones(2, 4, requires_grad=True)}),
        (ValueError, r"`bootstrap` must have the shape of `rewards` without time, \(2,\), got \(4,\)",
         {"bootstrap": torch.zeros(4)}),
        (ValueError, r"`gamma` must be within \[0, 1\], got 1.5", {"gamma": 1.5}),
        (ValueError, r"`lam` must be within \[0, 1\], got nan", {"lam": float("nan")}),
        (ValueError, "`rho_clip` is only of use with `ratio`, got 1.0 without", {"rho_clip": 1.0}),
        (ValueError, "`c_clip` must be > 0, or None for 1, got 0", {"ratio": STEPS, "c_clip": 0}),
        (ValueError, r"`time_dim` must be a dim of `rewards`, of shape \(2, 4\), got 2", {"time_dim": 2}),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(error, message, changes):
    call = {"rewards": STEPS, "values": STEPS, "dones": STEPS, "bootstrap": 0.0, **OPTIONS, **changes}
    tensors = [call.pop(name) for name in ("rewards", "values", "dones")]
    with pytest.raises(error, match=message):
        fluxcore.gae(*tensors, **call)
