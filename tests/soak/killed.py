"""Writers that are killed at any time, over and over: nothing half-done is read, and the work can be ended."""

import signal
from pathlib import Path

import numpy as np
from support.data_sets import write_data_set

import fluxcore.data
from fluxcore.data import sort
from soak.data_set_files import clear
from soak.scripts import run_script
from soak.target import FoundError, Target

WRITE = """
import sys, uuid, numpy as np, fluxcore.data as data
with data.ShardWriter(sys.argv[1], chunk_tokens=64, vocab_size=99, sources=["a"], shard_bytes=1 << 17,
                      uuid=uuid.UUID(int=5)) as w:
    for start in range(0, 6000, 500):
        places = {"doc_ids": np.arange(500), "doc_offsets": np.full(500, start)}
        w.append_batch(np.full((500, 64), start % 99), sources="a", **places)
"""
SORT = """
import sys, fluxcore.data
limit = int(sys.argv[3])
fluxcore.data.sort(sys.argv[1], sys.argv[2], "score", memory_bytes=limit or None, shard_bytes=100_000)
"""
ADD = """
import sys, numpy as np, fluxcore.data as data
ds = data.open(sys.argv[1])
while len(ds.columns) < 40:
    ds.add_column(f"c{len(ds.columns)}", np.full(len(ds), float(len(ds.columns))))
"""


class Killed(Target):
    """Runs scripts that are killed."""

    mean_s = 0.05
    """Of the time after which one is killed."""

    def run(self, rng: np.random.Generator, script: str, *arguments: object, patience: float = 1.0) -> bool:
        """Kill it after a random time, `patience` times as long as usual; whether it was done before."""
        ended = run_script(script, *arguments, kill_after_s=float(rng.exponential(self.mean_s * patience)))
        if ended.code not in (0, -signal.SIGKILL):
            raise FoundError(f"it ended with {ended.code}: {ended.printed}")
        return ended.code == 0


class KilledWriter(Killed):
    """ShardWriter."""

    name = "killed writer"

    def prepare(self, folder: Path) -> None:
        """Nothing but a place."""
        self._folder = folder / "set"

    def attempt(self, rng: np.random.Generator) -> str:
        """Nothing is published before all of it, and the next writer finds its way."""
        clear(self._folder)
        done = self.run(rng, WRITE, self._folder)
        try:
            chunks = len(fluxcore.data.open(self._folder))
        except FileNotFoundError:
            if done:
                raise FoundError("it was done, and there is no data set") from None
            exec(WRITE.replace("sys.argv[1]", "FOLDER"), {"FOLDER": self._folder})
        else:
            if chunks != 6000:
                raise FoundError(f"{chunks} chunks were published")
        fluxcore.data.open(self._folder).verify()
        left = [path.name for path in self._folder.iterdir() if path.name.endswith(".tmp")]
        if left and not done:
            # Killed after the publication: the next writer would take it away.
            return "published, temporary file left"
        return "done before" if done else "killed"


class KilledSort(Killed):
    """Sorts in memory and within a limit."""

    name = "killed sort"
    mean_s = 0.1

    def prepare(self, folder: Path) -> None:
        """A set, and its sort."""
        self._set = write_data_set(folder / "set", 6000, chunks_per_shard=2000)
        self._folder = folder / "sorted"
        sort(self._set, folder / "expected", "score", shard_bytes=100_000)
        self._expected = contents(folder / "expected")

    def attempt(self, rng: np.random.Generator) -> str:
        """Killed until it is done; then it has the bytes of a sort that was not."""
        clear(self._folder)
        limit = int(rng.choice([0, 400_000, 2_000_000]))
        kills = 0
        while not self.run(rng, SORT, self._set.path, self._folder, limit, patience=1.5**kills):
            kills += 1
            if kills > 40:
                raise FoundError("it never ends")
        if contents(self._folder) != self._expected:
            raise FoundError(f"other bytes after {kills} kills, memory {limit}")
        return "killed" if kills else "done before"


class KilledColumn(Killed):
    """`add_column`."""

    name = "killed add_column"

    def prepare(self, folder: Path) -> None:
        """A set of several shards."""
        self._folder = folder / "set"
        self._source = folder / "source"
        write_data_set(self._source, 400, chunks_per_shard=100)
        self._sound = {path.name: path.read_bytes() for path in self._source.iterdir()}

    def attempt(self, rng: np.random.Generator) -> str:
        """Columns are there whole or not at all, and others can be added."""
        clear(self._folder)
        self._folder.mkdir()
        for name, data in self._sound.items():
            (self._folder / name).write_bytes(data)
        done = self.run(rng, ADD, self._folder)
        ds = fluxcore.data.open(self._folder)
        ds.verify()
        for name in ds.columns:
            if name.startswith("c") and not (ds.column(name) == float(name[1:])).all():
                raise FoundError(f"column {name} has other values")
        ds.add_column("after", np.zeros(len(ds)))
        listed = {entry.name for shard in ds.manifest.shards for entry in (shard, *shard.sidecars)}
        there = {path.name for path in self._folder.iterdir()}
        if there != listed | {"manifest.json", ".fluxcore.lock"}:
            raise FoundError(f"left over: {sorted(there - listed)}")
        return "done before" if done else "killed"


def contents(folder: Path) -> dict[str, bytes]:
    """Files of a data set, but for the lock, which names the process."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".fluxcore.lock"}
