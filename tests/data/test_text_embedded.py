"""The text that every installation carries."""

import hashlib
from collections import Counter

import pytest

from fluxcore.data.text import EMBEDDED_SOURCES, embedded

BUDGET = 60_000


def test_it_is_the_same_each_time_and_within_the_budget():
    corpus = embedded(budget_bytes=BUDGET)
    documents = list(corpus)
    assert documents == list(corpus) == list(embedded(budget_bytes=BUDGET))
    assert documents != list(embedded(budget_bytes=BUDGET, seed=1))
    sizes = Counter()
    for document in documents:
        sizes[document.source] += len(document.text.encode())
    assert set(corpus.sources) == set(sizes)
    assert {"stdlib", "reference", "documents"} <= set(sizes)
    assert all(BUDGET / 2 < size <= BUDGET for size in sizes.values())
    assert corpus.size_bytes == sum(sizes.values())


def test_documents_are_sorted_and_none_is_there_twice():
    documents = list(embedded(budget_bytes=4 * BUDGET))
    keys = [(list(EMBEDDED_SOURCES).index(d.source), d.name) for d in documents]
    assert keys == sorted(set(keys))
    texts = [hashlib.sha256(d.text.strip().encode()).digest() for d in documents]
    assert len(set(texts)) == len(texts)
    assert not any(d.is_empty for d in documents)


def test_tests_of_the_library_and_the_reference_are_not_in_stdlib():
    names = [d.name for d in embedded(["stdlib"], budget_bytes=1 << 20)]
    parts = {part for name in names for part in name.split("/")}
    assert not parts & {"test", "tests", "site-packages", "pydoc_data"}


def test_bad_arguments():
    with pytest.raises(ValueError, match="`sources` must be among stdlib, reference, headers, documents, got 'web'"):
        embedded(["web"])
    with pytest.raises(ValueError, match="`budget_bytes` must be > 0, got 0"):
        embedded(budget_bytes=0)
    with pytest.raises(ValueError, match="no text of reference that fits in 10 bytes\n\nRaise `budget_bytes`"):
        embedded(["reference"], budget_bytes=10)


def test_its_identity_goes_by_the_text():
    one = embedded(["reference"], budget_bytes=5000).identity
    assert one == embedded(["reference"], budget_bytes=5000).identity
    assert one != embedded(["reference"], budget_bytes=5000, seed=1).identity
