import json
from importlib import metadata

from support.command_line import run

import fluxcore
from fluxcore import SoftmaxStats, _core
from fluxcore.cli import checks


def report(*, exit_code=0):
    result = run("doctor", "--json")
    assert result.exit_code == exit_code, result.output
    plain = json.loads(result.stdout)
    return plain["ok"], {(check["group"], check["name"]): check for check in plain["checks"]}


def test_the_chosen_instruction_set_is_the_one_of_the_extension():
    ok, found = report()
    assert ok
    isa = found["C++ extension", "CPU ISA"]
    assert isa["value"].split()[0] == _core.cpu_isa()
    assert all(name in isa["value"] for name in _core.cpu_isas())


def test_a_wrong_instruction_set_is_broken_with_a_way_out(monkeypatch):
    monkeypatch.setenv("FLUXCORE_ISA", "sse9")
    ok, found = report(exit_code=1)
    assert not ok
    isa = found["C++ extension", "CPU ISA"]
    assert isa["status"] == "broken"
    assert "sse9" in isa["value"]
    assert "unset FLUXCORE_ISA" in isa["remedy"]


def test_a_missing_package_names_the_extra_that_brings_it(monkeypatch):
    real = metadata.version

    def without_jinja2(name):
        if name == "jinja2":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(checks.metadata, "version", without_jinja2)
    ok, found = report()
    assert ok  # an extra is optional
    extra = found["extras", "report"]
    assert (extra["status"], extra["value"]) == ("absent", "missing: jinja2")
    assert extra["remedy"] == "pip install 'fluxcore[report]'"


def test_extras_are_those_that_the_package_declares():
    declared = set(metadata.metadata("fluxcore").get_all("Provides-Extra"))
    assert set(checks.extras()) == declared
    assert checks.extras()["report"] == ["jinja2", "matplotlib", "pyyaml"]


def test_a_gpu_that_torch_cannot_use_is_broken(monkeypatch, tmp_path):
    device_file = tmp_path / "nvidia0"
    device_file.touch()
    monkeypatch.setattr(checks, "GPU_DEVICE_FILES", (str(device_file),))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    ok, found = report(exit_code=1)
    assert not ok
    assert found["GPU", "device"]["status"] == "broken"
    assert "install" in found["GPU", "device"]["remedy"]


def test_the_tables_show_every_check():
    result = run("doctor")
    assert result.exit_code == 0
    for check in checks.all_checks():
        assert check.name in result.stdout


def test_each_backend_is_tried(monkeypatch):
    _, found = report()
    reference = found["backends", "reference"]
    assert reference["status"] == "ok"
    assert "right" in reference["value"]
    assert [name for group, name in found if group == "backends"] == ["triton", "cpp", "reference"]


def test_a_backend_that_gives_a_wrong_answer_is_broken(monkeypatch):
    real = fluxcore.softmax_stats

    def wrong(*arguments, **options):
        return SoftmaxStats(entropy=real(*arguments, **options).entropy * 1.01)

    monkeypatch.setattr(fluxcore, "softmax_stats", wrong)
    ok, found = report(exit_code=1)
    assert not ok
    assert found["backends", "reference"]["value"].startswith("wrong")


def test_a_wrong_backend_in_the_environment_is_broken(monkeypatch):
    monkeypatch.setenv("FLUXCORE_BACKEND", "abacus")
    _, found = report(exit_code=1)
    assert "abacus" in found["backends", "default"]["value"]
    assert "unset FLUXCORE_BACKEND" in found["backends", "default"]["remedy"]
