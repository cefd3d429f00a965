import pytest
from support.data_sets import write_data_set


@pytest.fixture(scope="module")
def ds(tmp_path_factory):
    """50 chunks in several shards, from two sources, with a score; tests leave it as it is."""
    return write_data_set(tmp_path_factory.mktemp("data") / "set")
