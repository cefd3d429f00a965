import math

import pytest
import torch
from accelerate import Accelerator

from fluxcore.training.meters import Meters


@pytest.fixture
def meters():
    return Meters(Accelerator(cpu=True))


def test_averages_are_weighted_over_the_interval_and_the_run(meters):
    meters.add("loss", torch.tensor(10.0), torch.tensor(4))
    meters.add("loss", torch.tensor(2.0), torch.tensor(2))
    meters.add("norm", 3.0)
    assert meters.weight("loss") == 6
    assert meters.close_interval() == {"loss": 2.0, "norm": 3.0}
    meters.add("loss", torch.tensor(6.0), torch.tensor(2))
    meters.add("norm", 5.0)
    assert meters.close_interval() == {"loss": 3.0, "norm": 5.0}
    assert meters.average("loss") == 18 / 8
    assert meters.average("norm") == 4.0
    assert meters.weight("loss") == 8


def test_an_interval_without_weight_has_no_average(meters):
    meters.add("loss", torch.tensor(0.0), torch.tensor(0))
    assert math.isnan(meters.close_interval()["loss"])


def test_gradients_are_not_kept(meters):
    meters.add("loss", torch.ones((), requires_grad=True) * 2)
    assert not meters.interval["loss"].requires_grad


def test_many_small_values_keep_their_digits(meters):
    for _ in range(1000):
        meters.add("loss", torch.tensor(0.1), torch.tensor(1))
    assert meters.close_interval()["loss"] == pytest.approx(float(torch.tensor(0.1)), rel=1e-12)


def test_state_goes_on_in_the_middle_of_an_interval(meters):
    meters.add("loss", 1.0, 2.0)
    meters.close_interval()
    meters.add("loss", 5.0, 1.0)
    other = Meters(meters.accelerator)
    other.load_state_dict(meters.state_dict())
    for each in (meters, other):
        each.add("loss", 1.0, 1.0)
    assert other.close_interval() == meters.close_interval() == {"loss": 3.0}
    assert other.average("loss") == meters.average("loss") == 7 / 4
