"""Random numbers of `prune_regrow_`: the published test vectors, and the same bits whichever way they are made."""

import pytest
import torch

import fluxcore
from fluxcore.ops._random_key import random_key
from fluxcore.ops.prune_regrow import prune_regrow_
from fluxcore.reference import prune as reference

# Counter, key and result, from Random123's kat_vectors.
KNOWN = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_philox_has_the_published_values(counter, key, result):
    low, high = torch.tensor([counter[0]]), torch.tensor([counter[1]])
    words = reference.philox(low, high, counter[2] | counter[3] << 32, key[0] | key[1] << 32)
    assert words[:, 0].tolist() == result


def test_a_counter_serves_four_neighbours():
    words = [word >> 1 for word in KNOWN[0][2]]
    assert reference.random_keys(4, 0, 0, 0).tolist() == words
    assert reference.random_keys(2, 0, 0, 1).tolist() == words[1:3]


def test_the_key_is_the_same_in_every_process():
    assert random_key("layer.weight", 7) == 0x4A55C50364CDC480


def surged(n, offset=0, step=3, std=1.0, name="w", dtype=torch.float32):
    weight = torch.zeros(n, dtype=dtype)
    masks = {name: torch.zeros(n, dtype=torch.bool)}
    prune_regrow_(
        {name: weight}, regrow="noise", regrow_fraction=1.0, noise_std=std, seed=11, step=step, masks=masks,
        offsets={name: offset},
    )  # fmt: skip
    assert masks[name].all()
    return weight


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("offset", [0, 5, 66, (1 << 40) + 63])
def test_normals_agree_with_float64_to_4_ulp(backend, offset):
    with fluxcore.backend(backend):
        ours = surged(5000, offset)
    exact = reference.normals(5000, random_key("w", 11), 3, offset)
    ulp = torch.finfo(torch.float32).eps * torch.ldexp(torch.ones(5000), torch.frexp(exact.abs()).exponent - 1)
    assert ((ours.double() - exact).abs() <= 4 * ulp).all()


def test_normals_are_normal():
    z = surged(400_000).double()
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        spread = z.pow(power).std() / len(z) ** 0.5
        assert abs(z.pow(power).mean() - moment) < 5 * spread
    # The numbers of one counter, and of neighbouring ones, are independent.
    for lag in (1, 2, 3, 4, 64):
        assert abs((z[lag:] * z[:-lag]).mean()) < 5 / len(z) ** 0.5
    assert 4.2 < z.abs().max() < 5.8


@pytest.mark.parametrize("isa", fluxcore._core.cpu_isas())
def test_every_instruction_set_draws_the_same(isa, monkeypatch):
    monkeypatch.setenv("FLUXCORE_ISA", isa)
    ours = surged(1000, 13)
    exact = reference.normals(1000, random_key("w", 11), 3, 13)
    torch.testing.assert_close(ours.double(), exact, rtol=4e-7, atol=0)


def test_numbers_depend_on_step_seed_and_name():
    first = surged(1000)
    assert torch.equal(first, surged(1000))
    assert not torch.isin(first, surged(1000, step=4)).any()
    assert not torch.isin(first, surged(1000, name="v")).any()
