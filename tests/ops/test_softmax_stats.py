"""Values of `softmax_stats` on every backend, against the float64 definition."""

import pytest
import torch
from support import naive
from support.numerics import assert_no_less_accurate, assert_relatively_accurate

from fluxcore import SoftmaxStats, reference, softmax_stats

ALL = SoftmaxStats._fields
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def assert_all_accurate(logits: torch.Tensor, target: torch.Tensor, *, top_k: int, **options: float) -> None:
    ours = softmax_stats(logits, target, outputs=ALL, top_k=top_k, **options)
    than = naive.softmax_stats(logits, target, top_k=top_k, **options)
    exact = reference.softmax_stats(logits.double(), target, outputs=ALL, top_k=top_k, **options)
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    for name in ALL[:-1]:
        assert getattr(ours, name).dtype == wide
        assert_no_less_accurate(getattr(ours, name), than=getattr(than, name), exact=getattr(exact, name))
    assert torch.equal(ours.argmax, exact.argmax)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 1), (17, 2), (41, 5), (26, 65), (2, 12, 96), (14, 257), (12, 1000), (4, 2500), (3, 8193)], ids=str
)
def test_every_statistic_is_accurate(shape, dtype, device):
    logits = (4 * torch.randn(shape, device=device)).to(dtype)
    target = torch.randint(shape[-1], shape[:-1], device=device)
    assert_all_accurate(logits, target, top_k=min(5, shape[-1]))


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.7}, {"softcap": 30.0}, {"temperature": 2.5, "softcap": 5.0}, {"softcap": 0.01}],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_temperature_and_softcap(options, dtype, device):
    logits = (10 * torch.randn(64, 131, device=device)).to(dtype)
    target = torch.randint(131, (64,), device=device)
    assert_all_accurate(logits, target, top_k=3, **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_softcap_bounds_minus_infinity_too(dtype, device):
    logits = torch.randn(3, 70, device=device).to(dtype)
    logits[0, 5] = logits[1, :] = logits[2, ::2] = -torch.inf
    bounded, target = logits.clamp(min=-1e4), torch.tensor([5, 5, 6], device=device)
    options = {"outputs": ALL[:-1], "top_k": 3, "softcap": 20.0}
    results = [softmax_stats(x.requires_grad_(), target, **options) for x in (logits, bounded)]
    for name in ALL[:-1]:
        assert torch.equal(*(getattr(result, name) for result in results))
    gradients = [
        torch.autograd.grad(sum(getattr(result, name).sum() for name in ALL[:-1]), x)[0]
        for result, x in zip(results, (logits, bounded), strict=True)
    ]
    assert torch.equal(*gradients)
    assert gradients[0].isfinite().all()


@pytest.mark.parametrize("offset", [0.0, 100.0, -100.0, 1e4, -1e4])
def test_a_common_offset_costs_no_accuracy(offset, device):
    logits = torch.randn(11, 777, device=device) + offset
    assert_all_accurate(logits, torch.randint(777, (11,), device=device), top_k=4)


@pytest.mark.parametrize("margin", [5.0, 15.0, 30.0, 45.0, 60.0])
@pytest.mark.parametrize("V", [2, 257, 5000])
def test_a_sure_row_keeps_its_digits(margin, V, device):
    logits = torch.rand(6, V, device=device)
    sure = torch.tensor([0, 1, V // 2, V - 1, V - 2, V // 3], device=device)
    logits.scatter_(-1, sure[:, None], margin)
    options = {"outputs": ("logprob", "entropy", "varentropy", "one_minus_max_prob", "top_k_mass"), "top_k": 2}
    ours = softmax_stats(logits, sure, **options)
    exact = reference.softmax_stats(logits.double(), sure, **options)
    assert (ours.entropy > 0).all()
    for name in options["outputs"]:
        assert_relatively_accurate(getattr(ours, name), exact=getattr(exact, name), margin=margin)


@pytest.mark.parametrize("top_k", [1, 8, 64])
@pytest.mark.parametrize("V", [64, 300, 3000])
@pytest.mark.parametrize("kind", ["random", "ties", "equal", "ascending", "descending"])
def test_top_k_mass(kind, V, top_k, device):
    logits = {
        "random": lambda: torch.randn(3, V),
        "ties": lambda: torch.randint(-3, 4, (3, V)).float(),
        "equal": lambda: torch.full((3, V), 2.0),
        "ascending": lambda: torch.linspace(-5, 5, V).expand(3, V).contiguous(),
        "descending": lambda: torch.linspace(5, -5, V).expand(3, V).contiguous(),
    }[kind]().to(device)
    ours = softmax_stats(logits, outputs=("top_k_mass",), top_k=top_k).top_k_mass
    exact = reference.softmax_stats(logits.double(), outputs=("top_k_mass",), top_k=top_k).top_k_mass
    than = naive.softmax_stats(logits, top_k=top_k).top_k_mass
    assert_no_less_accurate(ours, than=than, exact=exact)


def test_a_broad_row_keeps_the_digits_of_its_small_top_k_mass(device):
    logits = torch.zeros(2, 20000, device=device)
    ours = softmax_stats(logits, outputs=("top_k_mass", "max_prob"), top_k=1)
    expected = torch.full((2,), 1 / 20000, dtype=torch.float64, device=device)
    assert_relatively_accurate(ours.top_k_mass, exact=expected, margin=0)
    assert_relatively_accurate(ours.max_prob, exact=expected, margin=0)


@pytest.mark.parametrize("V", [5, 16, 300, 4096, 5000])  # with rows that fill their blocks, and rows that do not
def test_rows_with_stated_results(V, device):
    inf, nan = torch.inf, torch.nan
    logits = torch.randn(8, V, device=device)
    logits[0, 1:4] = -inf  # some classes are masked
    logits[1] = -inf  # all are
    logits[2, 3] = nan
    logits[2, 4] = nan
    logits[3, 2] = inf
    logits[4] = -inf  # one is left
    logits[4, V - 1] = -7
    logits[5] = 3.0  # all equal
    logits[6, 0], logits[6, V - 2] = inf, nan
    logits[7] = nan
    target = torch.tensor([1, 0, 1, 2, V - 1, V, -100, 0], device=device)
    ours = softmax_stats(logits, target, outputs=ALL, top_k=2)
    exact = reference.softmax_stats(logits.double(), target, outputs=ALL, top_k=2)

    assert ours.lse[1] == -inf
    assert ours.argmax.tolist()[1:] == [0, 3, 2, V - 1, 0, V - 2, 0]
    assert ours.lse[[3, 6, 7]].isnan().tolist() == [False, True, True]
    assert ours.lse[3] == inf
    for name in ALL[1:-1]:
        assert getattr(ours, name)[[1, 2, 3, 6, 7]].isnan().all(), name
    assert ours.logprob[0] == -inf
    assert ours.logprob[5].isnan()
    assert [ours.entropy[4], ours.varentropy[4], ours.one_minus_max_prob[4]] == [0, 0, 0]
    for name in ALL[:-1]:
        assert_relatively_accurate(getattr(ours, name), exact=getattr(exact, name), margin=10)


def test_the_first_index_wins_a_tie(device):
    for V in (9, 400, 6000):
        logits = torch.zeros(4, V, device=device)
        ties = [(3, V - 1), (V // 2, V // 2 + 1), (V - 2, V - 1), (0, V // 3)]
        for row, (i, j) in enumerate(ties):
            logits[row, [i, j]] = 1
        assert softmax_stats(logits, outputs=("argmax",)).argmax.tolist() == [i for i, _ in ties]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_layout_gives_the_same(dtype, device):
    logits = torch.randn(6, 130, device=device).to(dtype)
    expected = softmax_stats(logits, outputs=ALL, top_k=3, target=torch.arange(6, device=device))
    wide = torch.randn(6, 3, 143, device=device).to(dtype)
    for view in (wide[:, 1, :130], wide[:, 2, 1:131], wide[:, 0, 7:137], logits.t().contiguous().t()):
        view.copy_(logits)
        ours = softmax_stats(view, outputs=ALL, top_k=3, target=torch.arange(12, device=device)[::2] // 2)
        for name in ALL:
            torch.testing.assert_close(getattr(ours, name), getattr(expected, name), rtol=3e-6, atol=0)
    broadcast = softmax_stats(logits[:1].expand(4, 130), outputs=("entropy",)).entropy
    torch.testing.assert_close(broadcast, expected.entropy[:1].expand(4), rtol=3e-6, atol=0)


def test_shapes_and_unrequested_fields(device):
    stats = softmax_stats(torch.randn(2, 0, 5, device=device), outputs=("entropy", "argmax"))
    assert stats.entropy.shape == stats.argmax.shape == (2, 0)
    assert [name for name in ALL if getattr(stats, name) is not None] == ["entropy", "argmax"]
    assert softmax_stats(torch.randn(5, device=device), outputs=("lse",)).lse.shape == ()


def test_bitwise_equal_from_run_to_run(device):
    logits = torch.randn(5, 3000, device=device)
    runs = [softmax_stats(logits, outputs=(*ALL[:-2], "argmax"), target=torch.arange(5, device=device)) for _ in "ab"]
    for first, second in zip(*runs, strict=True):
        assert first is second is None or torch.equal(first, second)


@pytest.mark.slow
def test_more_than_2_to_the_31_elements():
    V = 262144
    logits = torch.zeros(2**31 // V + 2, V, dtype=torch.bfloat16)
    logits[-1, 5] = 3
    stats = softmax_stats(logits, outputs=("max_prob", "argmax"))
    exact = reference.softmax_stats(logits[-2:].double(), outputs=("max_prob", "argmax"))
    assert torch.equal(stats.argmax[-2:], exact.argmax)
    assert_relatively_accurate(stats.max_prob[-2:], exact=exact.max_prob, margin=3)
