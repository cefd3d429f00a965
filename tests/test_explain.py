"""A schedule says what a call launches, moves and takes: held against the shapes, and against real launches."""

import pytest
import torch

import fluxcore
from fluxcore.backends import Backend
from fluxcore.explained_ops import OPS

N, V = 64, 5000
OPTIONS = {"softmax_stats": {"outputs": ("entropy", "logprob")}}
LOGITS_READ = {"softmax_stats": (1, 1), "entropy_from_logits": (1, 1), "logsumexp": (1, 1), "kl_div": (2, 2)}
"""How often a forward and a backward pass must read [N, V]; the gradient is written once."""


def explain(op: str, backend: Backend = "cpp", shapes=None, **options):
    with fluxcore.backend(backend):
        return fluxcore.explain(op, shapes or {"logits": (N, V)}, **OPTIONS.get(op, {}) | options)


@pytest.fixture(params=["cpp", "triton"])
def backend(request) -> Backend:
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("op", LOGITS_READ)
def test_bytes_are_those_that_the_op_must_move(op, dtype, backend):
    schedule = explain(op, backend, dtype=dtype)
    logits = N * V * dtype.itemsize
    rows = N * 200  # statistics, state and targets: some numbers a row
    for launches, reads, writes in (
        (schedule.forward, LOGITS_READ[op][0], 0),
        (schedule.backward, LOGITS_READ[op][1], 1),
    ):
        assert reads * logits <= sum(launch.bytes_read for launch in launches) <= reads * logits + rows
        assert writes * logits <= sum(launch.bytes_written for launch in launches) <= writes * logits + rows
    assert logits <= schedule.peak_extra_bytes <= logits + rows
    assert schedule.forward_ms is None
    assert not explain(op, backend, requires_grad=False).backward


@pytest.mark.parametrize("columns", [1, 3])
def test_all_columns_of_indices_cost_one_read(columns):
    schedule = explain("selective_log_softmax", shapes={"logits": (N, V), "index": (N, columns)})
    names = [launch.kernel for launch in schedule.launches]
    assert names.count("softmax_stats_fwd") == names.count("softmax_stats_bwd") == 1
    assert names.count("gather") == names.count("scatter") == (columns > 1)
    assert schedule.peak_extra_bytes / (N * V * 4) == pytest.approx(1, abs=0.1)


def test_cross_entropy_makes_its_gradient_with_the_loss_where_the_call_does(backend):
    logits = N * V * 4
    fused = explain("cross_entropy", backend)
    apart = explain("cross_entropy", backend, reduction="none")
    assert sum(launch.bytes_written for launch in fused.forward) >= logits
    assert sum(launch.bytes_read for launch in fused.backward) < 100
    assert sum(launch.bytes_written for launch in apart.forward) < N * 100
    assert sum(launch.bytes_read for launch in apart.backward) >= logits
    for schedule in (fused, apart):
        assert logits <= schedule.peak_extra_bytes <= logits + N * 200
    probabilities = explain("cross_entropy", backend, {"logits": (N, V), "target": (N, V)})
    assert sum(launch.bytes_read for launch in probabilities.forward) >= 2 * logits


def test_a_cpu_schedule_has_the_threads_and_rows_of_the_call():
    schedule = explain("logsumexp")
    assert schedule.regime == "threads"
    assert schedule.machine.threads == torch.get_num_threads()
    assert schedule.machine.isa == fluxcore._core.cpu_isa()
    rows = fluxcore._core.softmax_row_grain(N, V, torch.get_num_threads())
    assert f"{rows} rows at a time" in schedule.forward[0].work
    assert fluxcore._core.softmax_row_grain(16000, 100000, 2) == 500
    with pytest.raises(ValueError, match="`threads` must be >= 1"):
        fluxcore._core.softmax_row_grain(1, 1, 0)


@pytest.mark.parametrize(
    ("op", "shapes", "dtype", "regime", "options"),
    [
        ("softmax_stats", {"logits": (100, 257)}, torch.float32, "rows", {"outputs": ("lse",)}),
        ("softmax_stats", {"logits": (20, 3000)}, torch.bfloat16, "loop", {"outputs": ("entropy",)}),
        ("softmax_stats", {"logits": (2, 9001)}, torch.bfloat16, "split", {"outputs": ("logprob",)}),
        ("softmax_stats", {"logits": (2, 9001)}, torch.float32, "loop", {"outputs": ("top_k_mass",), "top_k": 2}),
        ("cross_entropy", {"logits": (20, 3000)}, torch.float32, "loop", {}),
        ("cross_entropy", {"logits": (2, 9001)}, torch.float32, "split", {"reduction": "none"}),
        ("cross_entropy", {"logits": (20, 3001), "weight": (3001,)}, torch.float32, "loop", {"label_smoothing": 0.1}),
        ("kl_div", {"logits": (100, 257)}, torch.float32, "rows", {}),
        ("kl_div", {"logits": (2, 9001)}, torch.float32, "split", {"reduction": "none"}),
    ],
    ids=str,
)
def test_gpu_kernels_are_those_that_the_call_launches(op, shapes, dtype, regime, options, monkeypatch):
    schedule = explain(op, "triton", shapes, dtype=dtype, device=DEVICE, **options)
    launched = record_launches(monkeypatch)
    logits = torch.randn(shapes["logits"], device=DEVICE).to(dtype).requires_grad_()
    target = torch.zeros(logits.shape[0], dtype=torch.int64, device=DEVICE)
    tensors = {"softmax_stats": {"target": target}, "cross_entropy": {"target": target}}
    if "weight" in shapes:
        tensors["cross_entropy"]["weight"] = torch.ones(shapes["weight"], device=DEVICE)
    tensors["kl_div"] = {"ref_logits": logits.detach() + 1}
    with fluxcore.backend("triton"):
        result = OPS[op].function(logits, **tensors[op], **options)
        sum(
            value.sum() for value in (result if isinstance(result, tuple) else (result,)) if value is not None
        ).backward()
    ours = [launch for launch in schedule.launches if not launch.kernel.startswith("aten::")]
    assert [launch.kernel for launch in ours] == [name for name, _ in launched]
    assert schedule.regime == regime
    for launch, (_, grid) in zip(ours, launched, strict=True):
        assert not launch.regime or f"grid {' x '.join(map(str, grid))}," in launch.work


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def record_launches(monkeypatch) -> list[tuple[str, tuple[int, ...]]]:
    """Name and grid of each Triton kernel launched from now on."""
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    launched = []
    for kind in (InterpretedFunction, JITFunction):

        def run(self, *args, grid, original=kind.run, **kwargs):
            launched.append((self.fn.__name__, grid))
            return original(self, *args, grid=grid, **kwargs)

        monkeypatch.setattr(kind, "run", run)
    return launched


def test_times_are_bytes_over_bandwidth_and_the_table_shows_them():
    schedule = explain("entropy_from_logits", bandwidth_gb_per_s=2.0)
    moved = sum(launch.bytes_read + launch.bytes_written for launch in schedule.forward)
    assert schedule.forward_ms == pytest.approx(moved / 2e6)
    assert schedule.backward_ms > schedule.forward_ms > 0
    text = str(schedule)
    assert f"entropy_from_logits: logits {N} x {V}, float32; cpp on cpu" in text
    assert "times at 2.0 GB/s" in text
    assert "softmax_stats_bwd" in text
    assert f"{schedule.forward_ms:.4g}" in text


def test_bandwidth_can_be_measured_on_the_spot():
    schedule = explain("logsumexp", measure=True)
    assert 0.05 < schedule.bandwidth_gb_per_s < 1e5
    assert schedule.forward_ms > 0


def test_another_gpu_can_be_explained_without_one():
    shapes = {"logits": (300, 50257)}
    h100 = fluxcore.explain("logsumexp", shapes, device="cuda", multiprocessors=132)
    small = fluxcore.explain("logsumexp", shapes, device="cuda", multiprocessors=20)
    large = fluxcore.explain("logsumexp", {"logits": (3, 50257)}, device="cuda", multiprocessors=132)
    assert (h100.regime, small.regime, large.regime) == ("loop", "loop", "split")
    assert large.workspace_bytes > 0
    assert h100.machine.backend == "triton"


@pytest.mark.parametrize(
    ("op", "shapes", "options", "message"),
    [
        ("softmax", {"logits": (2, 3)}, {}, "`op` must be one of softmax_stats, .* got 'softmax'"),
        ("logsumexp", {}, {}, "`shapes` must have `logits` for `logsumexp`, got none"),
        ("logsumexp", {"logits": (2, 3), "target": (2,)}, {}, "`shapes` must be of logits .* got 'target'"),
        ("softmax_stats", {"logits": (2, 3)}, {"outputs": ("mean",)}, "`outputs` must be among .* got 'mean'"),
        ("selective_log_softmax", {"logits": (2, 3), "index": (5,)}, {}, "`index` must"),
        ("logsumexp", {"logits": (2, 3)}, {"device": "meta"}, "backend `reference` has no schedule"),
        ("logsumexp", {"logits": (2, 3)}, {"device": "cuda", "multiprocessors": 0}, "`multiprocessors` must be >= 1"),
        ("logsumexp", {"logits": (2, 3)}, {"bandwidth_gb_per_s": 0.0}, "`bandwidth_gb_per_s` must be > 0, got 0.0"),
        ("logsumexp", {"logits": (2, 3)}, {"bandwidth_gb_per_s": 1.0, "measure": True}, "`measure` is of no use"),
    ],
)
def test_bad_input_is_named_with_the_way_out(op, shapes, options, message):
    with pytest.raises(ValueError, match=message):
        fluxcore.explain(op, shapes, **options)


def test_an_unknown_option_is_refused_as_in_the_call():
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        fluxcore.explain("logsumexp", {"logits": (2, 3)}, colour="blue")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_its_size_must_be_given():
    with pytest.raises(ValueError, match="torch sees no GPU\n\nGive `multiprocessors`"):
        fluxcore.explain("logsumexp", {"logits": (2, 3)}, device="cuda")
