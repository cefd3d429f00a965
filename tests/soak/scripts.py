"""Scripts in processes of their own that start at once: they come from a server that has imported everything."""

import multiprocessing
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection

IMPORTS = ["datasets", "fluxcore.data", "fluxcore.data.tokenise", "fluxcore.scoring", "h5py", "pyarrow", "tokenizers"]


@dataclass(frozen=True)
class Ended:
    """How a script ended."""

    code: int
    """0, or minus a signal, or 1 after an exception."""
    printed: str
    """The exception."""


def run_script(script: str, *arguments: object, kill_after_s: float) -> Ended:
    """Run Python text with `sys.argv[1:]` as given, and kill it by SIGKILL a time after it has begun."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_execute, args=(script, [str(one) for one in arguments], theirs))
    process.start()
    theirs.close()
    ours.recv()  # it has begun
    process.join(kill_after_s)
    process.kill()
    process.join()
    printed = ""
    if process.exitcode == 1:
        printed = ours.recv()
    ours.close()
    assert process.exitcode is not None
    return Ended(process.exitcode, printed)


def _execute(script: str, arguments: list[str], pipe: Connection) -> None:
    sys.argv = ["script", *arguments]
    pipe.send("begun")
    try:
        exec(script, {"__name__": "script"})
    except BaseException:
        pipe.send(traceback.format_exc())
        raise
