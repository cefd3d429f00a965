"""Activation entropy as a trigger."""

import math

import pytest
import torch
from torch import nn

from fluxcore.surge import ActivationEntropy, Signals

SIGNALS = Signals(step=1, loss=None, parameters=())


def test_it_is_the_mean_entropy_as_a_share_of_the_largest():
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5))
    trigger = ActivationEntropy(model, ["0", "1"], below=0.5, smoothing=0.75)
    x = torch.randn(2, 3, 6)
    model(x)
    model.eval()
    model(100 * x)  # does not count
    model.train()
    hidden = model[0](x)  # counts once more
    out = model[1](hidden)

    def share(logits):
        p = logits.detach().double().softmax(-1)
        return float(-(p * p.log()).sum(-1).mean()) / math.log(logits.shape[-1])

    trigger.fires(SIGNALS)
    assert trigger.mean == pytest.approx((share(hidden) + share(out)) / 2, rel=1e-5)
    before = trigger.mean
    model(50 * x)
    trigger.fires(SIGNALS)
    now = (share(model[0](50 * x)) + share(model[1](model[0](50 * x)))) / 2
    assert trigger.mean == pytest.approx(0.75 * before + 0.25 * now, rel=1e-5)


def test_it_fires_below_and_above():
    model = nn.Sequential(nn.Identity())
    low = ActivationEntropy(model, ["0"], below=0.5, smoothing=0.0)
    high = ActivationEntropy(model, ["0"], above=0.9, smoothing=0.0)
    assert not low.fires(SIGNALS)
    for logits, fired in ((torch.zeros(4, 10), (False, True)), (torch.eye(10) * 40, (True, False))):
        model(logits)
        assert (low.fires(SIGNALS), high.fires(SIGNALS)) == fired
    low.close()
    model(torch.zeros(4, 10))
    assert low.fires(SIGNALS)  # the mean stays as it was
    other = ActivationEntropy(model, ["0"], below=0.5)
    other.load_state_dict(low.state_dict())
    assert other.mean == low.mean


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ["0"]}, "`below` or `above` must be given"),
        ({"layers": ["7"], "below": 0.5}, r"`layers` must name modules, got \['7'\]"),
        ({"layers": [], "below": 0.5}, "got none"),
        ({"layers": ["0"], "above": 1.5}, "`above` must be within"),
        ({"layers": ["0"], "above": 0.5, "smoothing": 1.0}, "`smoothing` must be within"),
    ],
    ids=str,
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ActivationEntropy(nn.Sequential(nn.Identity()), **options)


def test_bad_outputs():
    model = nn.Sequential(nn.Identity())
    ActivationEntropy(model, ["0"], below=0.5)
    with pytest.raises(ValueError, match="width >= 2"):
        model(torch.zeros(4, 1))
    with pytest.raises(TypeError, match="floating point"):
        model(torch.zeros(4, 3, dtype=torch.int64))
