import pytest

from fluxcore.data.text import Corpus, Document, files, in_parts, join


class Texts(Corpus):
    def __init__(self, source, *texts):
        self.sources = (source,)
        self.documents = [Document(text, source, f"{source}{i}") for i, text in enumerate(texts)]

    def __iter__(self):
        return iter(self.documents)


def test_joined_corpora_keep_their_sources_and_order():
    joined = join([Texts("a", "x", "y"), Texts("b", "z")])
    assert joined.sources == ("a", "b")
    assert [(each.text, each.source) for each in joined] == [("x", "a"), ("y", "a"), ("z", "b")]
    assert list(joined) == list(joined)


@pytest.mark.parametrize("corpora", [[], [Texts("a", "x"), Texts("a", "y")]])
def test_corpora_that_cannot_be_joined(corpora):
    with pytest.raises(ValueError, match="`corpora` must"):
        join(corpora)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", [""]),
        ("one line", ["one line"]),
        ("aaaa\n\nbb\ncc\n\ndd", ["aaaa\n\n", "bb\ncc\n\n", "dd"]),
        ("aaaa\nbb\ncccc\n", ["aaaa\n", "bb\ncccc\n"]),
        ("é\né\né\n\n\n", ["é\né\né\n\n", "\n"]),
    ],
)
def test_a_part_ends_at_a_blank_line_and_nothing_is_lost(text, parts):
    documents = list(in_parts(Texts("a", text), 5))
    assert [each.text for each in documents] == parts
    assert len({each.name for each in documents}) == len(parts)


def test_part_bytes_of_nothing_is_refused():
    with pytest.raises(ValueError, match="`part_bytes` must be > 0, got 0"):
        in_parts(Texts("a", "x"), 0)


def test_identities_are_those_of_all_parts(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(name)
    a, b = (files(tmp_path / f"{name}.txt") for name in "ab")
    found = [join([a, b]).identity, join([b, a]).identity, join([a]).identity, in_parts(a, 5).identity]
    found += [in_parts(a, 6).identity, a.identity, b.identity]
    assert len(set(found)) == len(found)
    assert join([a, b]).identity == join([a, b]).identity
    assert in_parts(a, 5).identity == in_parts(a, 5).identity
    assert Texts("s", "x").identity is None
    assert join([a, Texts("s", "x")]).identity is None
    assert in_parts(Texts("s", "x"), 5).identity is None
