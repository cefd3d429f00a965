"""Commands that are killed at any time and given again until they are done: the bytes are those of a run in one go."""

import shutil
from pathlib import Path

import numpy as np
from support.data_sets import write_data_set
from support.token_files import write_nanogpt

import fluxcore.data
from soak.data_set_files import clear
from soak.killed import Killed
from soak.target import FoundError

MAX_KILLS = 60

TOKENISE = """
import sys
from pathlib import Path
from fluxcore.data import tokenise as module
from fluxcore.data.text import files
from fluxcore.data.unfinished import train_beside
module._BATCH_DOCUMENTS = 16
corpus = files(sys.argv[1])
tokenizer = train_beside(Path(sys.argv[2]), corpus, vocab_size=300)
module.tokenise(corpus, sys.argv[2], tokenizer, chunk_tokens=16, shard_bytes=80_000)
"""
CONVERT = """
import sys, fluxcore.data
from fluxcore.data.interchange import blocks, hdf5
blocks.BLOCK_TOKENS = hdf5.BLOCK_TOKENS = 4000
options = {} if sys.argv[3] != "nanogpt" else {"vocab_size": 1000, "chunk_tokens": 16, "boundary": 7}
fluxcore.data.convert(sys.argv[1], sys.argv[2], format=sys.argv[3], shard_bytes=100_000, **options)
"""
EXPORT = """
import sys, fluxcore.data
from fluxcore.data.interchange import arrow_chunks, hdf5_export, pieces
pieces.BLOCK_TOKENS, arrow_chunks._FILE_BYTES, hdf5_export._CHECKPOINT_BYTES = 4000, 16 * 2 * 700, 16 * 4 * 700
fluxcore.data.export(sys.argv[1], sys.argv[2], format=sys.argv[3], file_tokens=9000)
"""
SCORE = """
import sys, fluxcore.data
from fluxcore.scoring import NGramScorer, score
ds = fluxcore.data.open(sys.argv[1])
score(ds, NGramScorer.fit(ds), prefix="ngram", batch_size=64, journal_seconds=0)
"""
VERIFY = """
import sys, fluxcore.data
report = fluxcore.data.open(sys.argv[1]).verify(resume_from=sys.argv[2])
assert report.chunks == 6000
"""


class _GivenAgain(Killed):
    def end(self, rng: np.random.Generator, script: str, out: Path, *arguments: object, published: str | None) -> str:
        """Kill it until it is done; returns the outcome.

        Args:
            out: what it writes.
            published: name in `out` that is there when it is done; empty: `out` itself; None: it may be given again.
        """
        kills = 0
        while not self.run(rng, script, *arguments, patience=1.2**kills):
            kills += 1
            if kills > MAX_KILLS:
                raise FoundError("it never ends")
            if published is not None and (out / published).exists():
                break  # killed in its last moments
        return f"{kills} kills" if kills < 3 else "3 kills or more"


def visible(folder: Path) -> dict[str, bytes]:
    """Files but for the hidden ones, which may be left where the kill came after the publication."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


class KilledTokenise(_GivenAgain):
    """`tokenise`, and the training of its tokenizer."""

    name = "killed tokenise"

    def prepare(self, folder: Path) -> None:
        """Text, and its data set."""
        self._text, self._out = folder / "text", folder / "set"
        self._text.mkdir()
        rng = np.random.default_rng(0)
        for name in ("a", "b"):
            words = (" ".join(f"w{n}" for n in rng.integers(0, 300, rng.integers(0, 120))) for _ in range(300))
            lines = "\n".join(f'{{"text": "{line}"}}' for line in words)
            (self._text / f"{name}.jsonl").write_text(lines)
        while not self.run(rng, TOKENISE, self._text, folder / "whole", patience=1e3):
            clear(folder / "whole")
        self._expected = visible(folder / "whole")

    def attempt(self, rng: np.random.Generator) -> str:
        """Shards, tokenizer, documents and manifest."""
        clear(self._out)
        outcome = self.end(rng, TOKENISE, self._out, self._text, self._out, published="manifest.json")
        if visible(self._out) != self._expected:
            raise FoundError(f"other bytes after {outcome}")
        return outcome


class KilledConvert(_GivenAgain):
    """`convert`, of a stream of tokens and of what `export` wrote."""

    name = "killed convert"

    def prepare(self, folder: Path) -> None:
        """An input of each kind, and its data set."""
        self._out = folder / "set"
        ds = write_data_set(folder / "first", 6000)
        self._inputs = {"nanogpt": folder / "x.bin", "hdf5": folder / "hdf5", "datasets": folder / "datasets"}
        write_nanogpt(self._inputs["nanogpt"], np.random.default_rng(0).integers(0, 1000, 90_000))
        self._expected = {}
        for kind, path in self._inputs.items():
            if kind != "nanogpt":
                fluxcore.data.export(ds, path, format=kind)
            while not self.run(np.random.default_rng(0), CONVERT, path, folder / f"whole {kind}", kind, patience=1e3):
                clear(folder / f"whole {kind}")
            self._expected[kind] = visible(folder / f"whole {kind}")

    def attempt(self, rng: np.random.Generator) -> str:
        """One of the formats."""
        clear(self._out)
        kind = str(rng.choice(list(self._inputs)))
        outcome = self.end(rng, CONVERT, self._out, self._inputs[kind], self._out, kind, published="manifest.json")
        if visible(self._out) != self._expected[kind]:
            raise FoundError(f"other bytes of {kind} after {outcome}")
        return outcome


class KilledExport(_GivenAgain):
    """`export` to all formats."""

    name = "killed export"
    mean_s = 0.1

    def prepare(self, folder: Path) -> None:
        """A set, and its exports."""
        self._set, self._out = write_data_set(folder / "set", 6000).path, folder / "out"
        self._expected = {}
        for kind in ("modded-nanogpt", "hdf5", "datasets"):
            while not self.run(np.random.default_rng(0), EXPORT, self._set, folder / kind, kind, patience=1e3):
                clear(folder / kind)
            self._expected[kind] = visible(folder / kind)

    def attempt(self, rng: np.random.Generator) -> str:
        """One of the formats."""
        clear(self._out)
        clear(self._out.with_name(f".{self._out.name}.tmp"))
        kind = str(rng.choice(list(self._expected)))
        outcome = self.end(rng, EXPORT, self._out, self._set, self._out, kind, published="")
        if visible(self._out) != self._expected[kind]:
            raise FoundError(f"other bytes of {kind} after {outcome}")
        return outcome


class KilledScore(_GivenAgain):
    """`score`, whose journal is written after each batch."""

    name = "killed score"

    def prepare(self, folder: Path) -> None:
        """A set, and the same with scores."""
        self._set, self._out = write_data_set(folder / "set", 6000, chunks_per_shard=2000).path, folder / "out"
        shutil.copytree(self._set, folder / "whole")
        while not self.run(np.random.default_rng(0), SCORE, folder / "whole", patience=1e3):
            clear(folder / "whole")
            shutil.copytree(self._set, folder / "whole")
        self._expected = visible(folder / "whole")

    def attempt(self, rng: np.random.Generator) -> str:
        """Columns, sidecars and manifest."""
        clear(self._out)
        shutil.copytree(self._set, self._out)
        outcome = self.end(rng, SCORE, self._out, self._out, published=None)
        if visible(self._out) != self._expected:
            raise FoundError(f"other bytes after {outcome}")
        return outcome


class KilledVerify(_GivenAgain):
    """`verify` with a state."""

    name = "killed verify"

    def prepare(self, folder: Path) -> None:
        """A set of many shards."""
        self._set, self._state = write_data_set(folder / "set", 6000, chunks_per_shard=100).path, folder / "state"

    def attempt(self, rng: np.random.Generator) -> str:
        """It ends, and its state goes."""
        self._state.unlink(missing_ok=True)
        outcome = self.end(rng, VERIFY, self._state, self._set, self._state, published=None)
        if self._state.exists():
            raise FoundError(f"the state is left after {outcome}")
        return outcome
