"""Writers and columns that are killed at every place: nothing half-done is read, and to do it again gives the same."""

from uuid import UUID

import numpy as np
import pytest
from support.killing import contents, killed_everywhere
from support.shards import write

import fluxcore.data as data
from fluxcore import _core

OPTIONS = {"n": 1500, "shard_bytes": 80_000, "uuid": UUID(int=9)}
VALUES = np.arange(1500) / 7


def killed(action):
    """`killed_everywhere`, where the places right before and right behind each file that C++ finishes count too."""

    def counted(tick):
        finish = _core.ShardWriter.finish

        def finish_counted(writer):
            tick()
            done = finish(writer)
            tick()
            return done

        _core.ShardWriter.finish = finish_counted
        action()

    return killed_everywhere(counted)


def test_a_writer(tmp_path):
    write(tmp_path / "whole", **OPTIONS)
    expected, folder = contents(tmp_path / "whole"), tmp_path / "set"
    places = 0
    for _ in killed(lambda: write(folder, **OPTIONS)):  # the next one begins with what this one left
        with pytest.raises(FileNotFoundError, match="no data set"):
            data.open(folder)
        places += 1
    assert places > 2 * 3
    assert contents(folder) == expected


@pytest.mark.parametrize("names", [["x"], ["x", "y"]], ids=str)
def test_columns(tmp_path, names):
    write(tmp_path / "whole", **OPTIONS)
    data.open(tmp_path / "whole").add_columns(dict.fromkeys(names, VALUES))
    expected, folder = contents(tmp_path / "whole"), tmp_path / "set"
    write(folder, **OPTIONS)
    places = 0
    for _ in killed(lambda: data.open(folder).add_columns(dict.fromkeys(names, VALUES))):
        left = data.open(folder)
        left.verify()
        assert not set(names) & set(left.columns)
        places += 1
    assert places > 2 * 3
    assert contents(folder) == expected
