"""`sort-job`: plan, run and publish by commands alone, as a scheduler calls them."""

import json

import pytest
from support.command_line import fails, run, succeeds
from support.data_sets import write_data_set

import fluxcore.data
from fluxcore.data import SortJob
from fluxcore.data.tokenise import DOCUMENTS_FILE, TOKENIZER_FILE


@pytest.fixture
def parts(tmp_path):
    """Two data sets with a tokenizer and tables of documents, the second without its first document."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for number, folder in enumerate(folders):
        write_data_set(folder, 1000 + number)
        (folder / TOKENIZER_FILE).write_text("{}")
        names = [{"doc_id": doc, "source": "web", "name": f"Straße {doc}", "tokens": 80} for doc in range(number, 200)]
        lines = [json.dumps(name, ensure_ascii=False) for name in names]
        (folder / DOCUMENTS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folders


def test_one_after_the_other_they_do_what_sort_does(parts, tmp_path):
    succeeds("sort", parts[0], tmp_path / "whole", "--by", "score")
    told = succeeds("sort-job", "plan", parts[0], tmp_path / "out", "--by", "score", "--tasks", 2)
    assert "1,000 chunks; shards to write: 1; tasks: 2" in told
    assert "1 tasks have no shard to write" in told
    assert f"fluxcore sort-job run {tmp_path / 'out'} --task K` for K from 0 to 1" in told
    for task in (1, 0):
        assert f"task {task} of 2 is done" in succeeds("sort-job", "run", tmp_path / "out", "--task", task)
    assert "1,000 chunks, sorted and published" in succeeds("sort-job", "publish", tmp_path / "out")
    files = {path.name: path.read_bytes() for path in (tmp_path / "whole").glob("[!.]*")}
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("[!.]*")} == files
    assert {TOKENIZER_FILE, DOCUMENTS_FILE} < files.keys()


def test_several_data_sets_become_one_with_all_their_documents(parts, tmp_path, monkeypatch):
    succeeds("sort-job", "plan", *parts, tmp_path / "out", "--by", "score", "--tasks", 3, "--shard-mb", 1,
             "--memory-mb", 2, "--descending")  # fmt: skip
    for task in range(3):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        succeeds("sort-job", "run", tmp_path / "out")
    succeeds("sort-job", "publish", tmp_path / "out")
    ds = fluxcore.data.open(tmp_path / "out")
    assert ds.manifest.sorted_by.descending
    lines = (tmp_path / "out" / DOCUMENTS_FILE).read_text(encoding="utf-8").splitlines()
    names = {entry["doc_id"]: entry["name"] for entry in map(json.loads, lines)}
    assert names == {doc: f"Straße {doc if doc < 200 else doc - 200}" for doc in range(400) if doc != 200}
    assert set(ds.column("doc_id").tolist()) == {*range(401)}


def test_what_is_wrong_is_told_in_a_line(parts, tmp_path):
    assert "no sort by tasks is planned" in fails("sort-job", "run", parts[0], "--task", 0)
    succeeds("sort-job", "plan", parts[0], tmp_path / "out", "--by", "score", "--tasks", 2)
    assert "run task 1" in fails("sort-job", "publish", tmp_path / "out")
    assert "`task` must be within [0, 2)" in fails("sort-job", "run", tmp_path / "out", "--task", 2)
    assert SortJob(tmp_path / "out").tasks == 2
    assert run("sort-job", "run", tmp_path / "out").exit_code == 2
