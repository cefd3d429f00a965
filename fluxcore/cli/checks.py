"""What `fluxcore doctor` looks at: each check says what is there, and what to do where something is not."""

import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, get_args

if TYPE_CHECKING:
    from torch import Tensor

    from fluxcore import backends

GPU_DEVICE_FILES = ("/dev/nvidia0", "/dev/kfd")
LARGEST_ERROR_NATS = 1e-5  # float32 rounding of an entropy of some nats is far below


class Status(Enum):
    """How a check came out."""

    OK = "ok"
    ABSENT = "absent"
    """Not there, and nothing breaks without it."""
    BROKEN = "broken"
    """fluxcore does not work as it should until this is mended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One line of the report."""

    group: str
    name: str
    value: str
    status: Status = Status.OK
    remedy: str = ""


def all_checks() -> list[Check]:
    """Every check, in the order in which it is shown."""
    return [*version_checks(), *extension_checks(), *thread_checks(), *gpu_checks(), *backend_checks(), *extra_checks()]


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def version_checks() -> Iterator[Check]:
    """The versions that decide what runs here."""
    yield Check(group="versions", name="fluxcore", value=metadata.version("fluxcore"))
    yield Check(group="versions", name="Python", value=f"{platform.python_version()} on {platform.platform()}")
    for distribution in ("torch", "numpy"):
        yield Check(group="versions", name=distribution, value=metadata.version(distribution))


def extension_checks() -> Iterator[Check]:
    """Whether the C++ extension loads, and the instruction set that it chose."""
    try:
        from fluxcore import _core
    except ImportError as error:
        remedy = "reinstall from a checkout, with a C++20 compiler at hand: pip install --force-reinstall --no-deps ."
        yield Check(group="C++ extension", name="fluxcore._core", value=str(error), status=Status.BROKEN, remedy=remedy)
        return
    yield Check(group="C++ extension", name="fluxcore._core", value=str(_core.__file__))
    available = _core.cpu_isas()
    try:
        chosen = _core.cpu_isa()
    except ValueError as error:
        remedy = f"unset FLUXCORE_ISA, or set it to one of: {', '.join(available)}"
        yield Check(group="C++ extension", name="CPU ISA", value=str(error), status=Status.BROKEN, remedy=remedy)
        return
    forced = " by FLUXCORE_ISA" if os.environ.get("FLUXCORE_ISA") else ""
    yield Check(group="C++ extension", name="CPU ISA", value=f"{chosen}{forced} (available: {', '.join(available)})")


def thread_checks() -> Iterator[Check]:
    """How many threads the CPU kernels take, of how many there are."""
    import torch

    usable = len(os.sched_getaffinity(0))
    threads = torch.get_num_threads()
    remedy = ""
    if threads > usable:
        remedy = f"more threads than cores wait for each other: OMP_NUM_THREADS={usable}"
    yield Check(group="CPU", name="threads", value=f"{threads} of {usable} usable cores", remedy=remedy)


def gpu_checks() -> Iterator[Check]:
    """GPUs that torch sees, and whether Triton can compile for them."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(count):
        properties = torch.cuda.get_device_properties(index)
        memory_gib = properties.total_memory / 2**30
        value = f"{properties.name}, compute capability {properties.major}.{properties.minor}, {memory_gib:.0f} GiB"
        yield Check(group="GPU", name=f"cuda:{index}", value=value)
    if count == 0:
        yield _no_gpu(torch.__version__, built_for=torch.version.cuda or torch.version.hip)
    version = installed_version("triton")
    if version is None:
        remedy = "pip install triton (Linux only); until then the CPU kernels serve"
        yield Check(group="GPU", name="Triton", value="not installed", status=Status.ABSENT, remedy=remedy)
    elif count:
        yield Check(group="GPU", name="Triton", value=version)
    elif os.environ.get("TRITON_INTERPRET") == "1":
        yield Check(group="GPU", name="Triton", value=f"{version}, interpreted on the CPU (TRITON_INTERPRET=1)")
    else:
        remedy = "to try the kernels without a GPU, slowly: TRITON_INTERPRET=1"
        value = f"{version}, no GPU to compile for"
        yield Check(group="GPU", name="Triton", value=value, status=Status.ABSENT, remedy=remedy)


def _no_gpu(torch_version: str, *, built_for: str | None) -> Check:
    present = [path for path in GPU_DEVICE_FILES if Path(path).exists()]
    if present and built_for is None:
        value = f"{present[0]} is there, but torch {torch_version} is built for the CPU alone"
        remedy = "install a build of torch for your GPU, see https://pytorch.org/get-started/locally"
        return Check(group="GPU", name="device", value=value, status=Status.BROKEN, remedy=remedy)
    if present:
        value = f"{present[0]} is there, but torch {torch_version} cannot use it"
        remedy = "install a driver that is new enough for this build of torch (nvidia-smi or rocm-smi shows yours)"
        return Check(group="GPU", name="device", value=value, status=Status.BROKEN, remedy=remedy)
    remedy = "nothing needs one: the CPU kernels serve"
    return Check(group="GPU", name="device", value="none", status=Status.ABSENT, remedy=remedy)


def backend_checks() -> Iterator[Check]:
    """Whether each backend of the ops gives the right answer here, on the GPU where there is one."""
    import torch

    from fluxcore import backends, reference

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        default = backends.resolve_backend(device)
    except ValueError as error:
        why, _, remedy = str(error).partition("\n\n")
        remedy = f"unset FLUXCORE_BACKEND. {remedy}"
        yield Check(group="backends", name="default", value=why, status=Status.BROKEN, remedy=remedy)
        default = None
    logits = torch.linspace(-5, 5, 4 * 1000, device=device).reshape(4, 1000)
    exact = reference.softmax_stats(logits.double(), outputs=("entropy",)).entropy
    assert exact is not None
    for name in get_args(backends.Backend):
        check = _backend_check(name, logits, exact)
        yield replace(check, value=f"{check.value} (the default here)") if name == default else check


def _backend_check(name: "backends.Backend", logits: "Tensor", exact: "Tensor") -> Check:
    import fluxcore

    try:
        with fluxcore.backend(name):
            entropy = fluxcore.softmax_stats(logits, outputs=("entropy",)).entropy
    except ValueError as error:
        why, _, remedy = str(error).partition("\n\n")
        return Check(group="backends", name=name, value=why, status=Status.ABSENT, remedy=remedy)
    except (RuntimeError, OSError) as error:  # a compiler or a driver that fails
        remedy = "the other backends serve; FLUXCORE_BACKEND chooses one"
        return Check(group="backends", name=name, value=str(error), status=Status.BROKEN, remedy=remedy)
    assert entropy is not None
    error_nats = float((entropy.double() - exact).abs().max())
    value = f"right: softmax_stats is within {error_nats:.1e} nats of float64"
    if error_nats <= LARGEST_ERROR_NATS:
        return Check(group="backends", name=name, value=value)
    value = f"wrong: softmax_stats is off by {error_nats:.1e} nats"
    remedy = "choose another by FLUXCORE_BACKEND, and report this with the output of `fluxcore doctor --json`"
    return Check(group="backends", name=name, value=value, status=Status.BROKEN, remedy=remedy)


def extra_checks() -> Iterator[Check]:
    """Which optional dependencies are installed."""
    for extra, distributions in extras().items():
        missing = [name for name in distributions if installed_version(name) is None]
        if missing:
            value, status = f"missing: {', '.join(missing)}", Status.ABSENT
            remedy = f"pip install 'fluxcore[{extra}]'"
            yield Check(group="extras", name=extra, value=value, status=status, remedy=remedy)
        else:
            yield Check(group="extras", name=extra, value=f"all {len(distributions)} packages")


def extras() -> dict[str, list[str]]:
    """Extra -> distributions that it asks for, as the installed package declares them."""
    found: dict[str, list[str]] = {}
    for requirement in metadata.requires("fluxcore") or []:
        match = re.fullmatch(r"([\w.-]+)(?:\[.*?\])?[^;]*;.*\bextra == ['\"]([\w-]+)['\"].*", requirement)
        if match and match[1] != "fluxcore":
            found.setdefault(match[2], []).append(match[1])
    return found
