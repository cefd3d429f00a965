"""Work in a process of its own, a step at a time, whose failure is an answer too."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Self

from benchmarks.data.contender import CannotError
from benchmarks.harness import WrongAnswerError

TIMEOUT_S = 600
Answer = tuple[str, Any]
"""`ok`, or why the step did not end well, and what it gave."""


class FailedError(Exception):
    """Work handed on to another process failed; the message is the status that it ended with."""


class Child:
    """A fork of this process that goes one step of `work` on each time it is asked, and is killed at the end."""

    def __init__(self, work: Callable[[], Iterator[Any]]) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(work, theirs, os.getpid()))
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def next(self) -> Answer:
        """Make a step."""
        return answers([self])[0]

    def _ask(self) -> Connection:
        self._pipe.send(None)
        return self._pipe

    def _receive(self) -> Answer:
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            return f"cannot run: its process ended with code {self._process.exitcode}", None


def answers(children: Sequence[Child]) -> list[Answer]:
    """A step of each, all at once. After one that fails the others are not waited for: they may wait for that one."""
    open_ = {child._ask(): child for child in children}
    given: dict[Child, Answer] = {}
    while open_ and all(status == "ok" for status, _ in given.values()):
        ready = wait(list(open_), TIMEOUT_S)
        if not ready:
            given[next(iter(open_.values()))] = (f"not done after {TIMEOUT_S} s", None)
        for pipe in ready:
            child = open_.pop(pipe)
            given[child] = child._receive()
    return [given.get(child, ("left, as another one failed", None)) for child in children]


def in_child(work: Callable[[], Any]) -> Answer:
    """Run it in a fork of this process."""

    def once() -> Iterator[Any]:
        yield work()

    with Child(once) as child:
        return child.next()


def value_of(answer: Answer) -> Any:
    """What the step gave.

    Raises:
        FailedError: it did not end well.
    """
    status, value = answer
    if status != "ok":
        raise FailedError(status)
    return value


def _serve(work: Callable[[], Iterator[Any]], pipe: Connection, parent: int) -> None:
    steps: Iterator[Any] | None = None
    while True:
        while not pipe.poll(1):
            if os.getppid() != parent:
                os._exit(1)  # nobody is left to ask
        pipe.recv()
        if steps is None:
            steps = work()
        status, value = _step(steps)
        pipe.send((status, value))


def _step(steps: Iterator[Any]) -> Answer:
    try:
        return "ok", next(steps)
    except ModuleNotFoundError as error:
        return f"not installed: {error.name}", None
    except CannotError as error:
        return f"cannot run: {error}", None
    except WrongAnswerError as error:
        return f"wrong answer: {error}", None
    except FailedError as error:
        return str(error), None
    except Exception as error:  # noqa: BLE001  a rival's failure is its row, with what it said
        said = str(error).splitlines()[0] if str(error) else ""
        return f"cannot run: {type(error).__name__}: {said}"[:200], None
