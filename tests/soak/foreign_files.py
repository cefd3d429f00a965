"""Files of other projects, changed: refused by name, or a sound data set."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from support.data_sets import write_data_set
from support.token_files import write_arrow, write_megatron, write_modded, write_nanogpt

import fluxcore.data
from fluxcore.errors import MalformedInputError
from soak.data_set_files import clear
from soak.mutation import mutate
from soak.target import FoundError, Target

TOKENS = np.arange(200) % 90


class Foreign(Target):
    """Every format that can be imported."""

    name = "foreign files"

    def prepare(self, folder: Path) -> None:
        """A small input of each format."""
        self._out = folder / "out"
        for name in ("nanogpt", "modded-nanogpt", "megatron"):
            (folder / name).mkdir()
        write_nanogpt(folder / "nanogpt" / "x.bin", TOKENS)
        write_modded(folder / "modded-nanogpt" / "x.bin", TOKENS)
        write_megatron(folder / "megatron" / "x", [[part.tolist()] for part in np.split(TOKENS, [7, 30, 31, 150])])
        write_arrow(
            folder / "datasets", [part.tolist() for part in np.split(TOKENS, [7, 90])], kind=pa.list_(pa.int32())
        )
        ds = write_data_set(folder / "set", chunks=12, chunk_tokens=4)
        fluxcore.data.export(ds, folder / "export", format="datasets")
        self._inputs = {
            name: {path: path.read_bytes() for path in sorted((folder / name).iterdir())}
            for name in ("nanogpt", "modded-nanogpt", "megatron", "datasets", "export")
        }

    def attempt(self, rng: np.random.Generator) -> str:
        """One file is changed."""
        name = str(rng.choice(list(self._inputs)))
        path = list(self._inputs[name])[int(rng.integers(len(self._inputs[name])))]
        sound = self._inputs[name][path]
        path.write_bytes(mutate(rng, sound, high=None if rng.random() < 0.5 else 200))
        try:
            kind = "datasets" if name == "export" else name
            fluxcore.data.convert(path.parent, self._out, format=kind, vocab_size=1000, chunk_tokens=4)
            if fluxcore.data.open(self._out).verify().tokens == 0:
                raise FoundError("a data set without tokens")
        except MalformedInputError as error:
            if str(path.parent) not in str(error):
                raise FoundError(f"no file is named: {error}") from error
            return "refused"
        except ValueError as error:
            # No token is left, or an export now tells sizes other than those asked for.
            if not any(part in str(error) for part in ("`inputs` must hold tokens", "as the exported data set has it")):
                raise
            return "refused"
        finally:
            path.write_bytes(sound)
            clear(self._out)
        return "sound"
