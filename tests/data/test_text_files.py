"""Documents from the user's own files, and every input that cannot be read."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fluxcore.data.text import Document, files


def write(path, text="some text\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_folder_is_read_in_order_and_again(tmp_path):
    root = tmp_path / "corpus"
    write(root / "b.md", "bee")
    write(root / "a" / "z.txt", "zed")
    write(root / "a" / "c.py", "sea")
    write(root / "empty.txt", "")
    write(root / ".hidden" / "x.txt", "hidden")
    write(root / "image.png", "\x89PNG")
    corpus = files(root)
    expected = [
        Document("sea", "corpus", "corpus/a/c.py"),
        Document("zed", "corpus", "corpus/a/z.txt"),
        Document("bee", "corpus", "corpus/b.md"),
    ]
    assert list(corpus) == expected
    assert list(corpus) == expected
    assert corpus.size_bytes == 9
    assert corpus.ignored == [root / "image.png"]


def test_each_path_is_a_source_told_apart_by_as_much_as_needed(tmp_path):
    one, two = write(tmp_path / "x" / "text.txt", "1"), write(tmp_path / "y" / "text.txt", "2")
    corpus = files([two, one])
    assert corpus.sources == ("y/text.txt", "x/text.txt")
    assert [(d.source, d.text) for d in corpus] == [("y/text.txt", "2"), ("x/text.txt", "1")]
    with pytest.raises(ValueError, match="given twice"):
        files([one, one.parent / ".." / "x" / "text.txt"])


def test_a_file_without_suffix_is_read_when_named(tmp_path):
    assert [d.text for d in files(write(tmp_path / "LICENSE", "free"))] == ["free"]


def test_a_byte_order_mark_is_no_text(tmp_path):
    (document,) = files(write(tmp_path / "a.txt", b"\xef\xbb\xbfhello\r\n"))
    assert document.text == "hello\r\n"


def test_jsonl_gives_a_document_a_line(tmp_path):
    rows = [{"text": "one"}, {"text": "zwei ü"}, {"text": ""}, {"text": None}]
    path = write(tmp_path / "a.jsonl", "\n\n".join(map(json.dumps, rows)) + "\n")
    corpus = list(files(path))
    assert [d.text for d in corpus] == ["one", "zwei ü", "", ""]
    assert [d.name for d in corpus] == ["a.jsonl:1", "a.jsonl:3", "a.jsonl:5", "a.jsonl:7"]
    assert [d.is_empty for d in corpus] == [False, False, True, True]


def test_parquet_gives_a_document_a_row(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [1, 2], "body": ["one", None]}), path)
    assert [(d.text, d.name) for d in files(path, column="body")] == [("one", "a.parquet:0"), ("", "a.parquet:1")]
    with pytest.raises(ValueError, match=r"a\.parquet` has no column 'text'\n\nPass `column`; there are: id, body"):
        list(files(path))
    with pytest.raises(ValueError, match=r"row 0 of .* must be a string, got int"):
        list(files(path, column="id"))


def test_missing_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt` does not exist"):
        files(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match="at least one file or folder"):
        files([])


def test_empty_file_and_empty_folder(tmp_path):
    with pytest.raises(ValueError, match=r"a\.txt` is empty"):
        files(write(tmp_path / "a.txt", ""))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder` has no text in it\n\nFiles are taken by their suffix"):
        files(tmp_path / "folder")


def test_unknown_suffix(tmp_path):
    with pytest.raises(
        ValueError, match=r"a\.docx` has the suffix '\.docx', which is not known as text\n\nKnown are: .*\.txt"
    ):
        files(write(tmp_path / "a.docx"))


def test_undecodable_bytes_are_named_with_their_place(tmp_path):
    path = write(tmp_path / "latin.txt", "caf\u00e9".encode("latin-1") + b"!")
    with pytest.raises(
        ValueError, match=r"latin\.txt` must be UTF-8, got the bytes e9 at byte 3\n\n.*errors=\"replace\""
    ):
        list(files(path))
    assert [d.text for d in files(path, errors="replace")] == ["caf\ufffd!"]
    lines = write(tmp_path / "a.jsonl", b'{"text": "ok"}\n{"text": "\xff"}\n')
    with pytest.raises(ValueError, match="ff at byte 25"):
        list(files(lines))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2 of `.*a\.jsonl` must be JSON"),
        ("[1]", "line 2 of .* must be a JSON object, got list"),
        ('{"body": "x"}', "line 2 of .* has no column 'text'\n\nPass `column`; there are: body"),
        ('{"text": 3}', "line 2 of .* must be a string, got int"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = write(tmp_path / "a.jsonl", '{"text": "fine"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        list(files(path))


def test_half_of_a_character_in_json(tmp_path):
    path = write(tmp_path / "a.jsonl", r'{"text": "whole \ud83d\ude42"}' + "\n" + r'{"text": "half \ud83d."}' + "\n")
    with pytest.raises(
        ValueError, match=r"line 2 of .* has half of a character, \\ud83d, at 5\n\n.*errors=\"replace\""
    ):
        list(files(path))
    assert [d.text for d in files(path, errors="replace")] == ["whole \U0001f642", "half \ufffd."]


def test_unknown_way_to_treat_errors(tmp_path):
    with pytest.raises(ValueError, match="`errors` must be one of strict, replace, got 'ignore'"):
        files(write(tmp_path / "a.txt"), errors="ignore")


def test_a_file_that_is_not_parquet(tmp_path):
    with pytest.raises(ValueError, match=r"a\.parquet` must be a Parquet file"):
        list(files(write(tmp_path / "a.parquet", "PAR0" * 10)))


def test_its_identity_goes_by_files_and_options(tmp_path):
    path = write(tmp_path / "a.txt", "one")
    first = files(path).identity
    assert files(path).identity == first
    others = {files(path, column="other").identity, files(path, errors="replace").identity}
    others |= {files(write(tmp_path / "b.txt", "one")).identity}
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    others |= {files(path).identity}
    write(path, "longer")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    others |= {files(path).identity}
    assert len(others | {first}) == 6
