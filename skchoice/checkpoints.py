"""Checkpoints of a fit, from which another process ends it with the same bits.

A fit has a folder of its own in ``checkpoint_dir``, named after what decides its
result: the parameters, the rows, and the model it goes on from. A checkpoint is a file
of :mod:`skchoice.tensorfile` with the training state, the random generators, the number
of steps done, which fixes the order of the data, and the sums for the next record.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout
from numpy.typing import NDArray

from skchoice import tensorfile, tree
from skchoice.exceptions import CheckpointWarning, FileRefusedError
from skchoice.identity import differences
from skchoice.saving import CLASSES, check_state, versions
from skchoice.state import TrainingState
from skchoice.training import Tally

FORMAT = 2
_CLASSES = CLASSES | {"Tally": Tally}
_KEPT = 2  # the newest, and one more in case that the disk has spoilt it
# "auto": a minute, or as long as makes writing one hundredth of the time.
_SECONDS = 60.0
_TIMES_ITS_COST = 100.0


@dataclass
class Progress:
    """How far a fit has come: all that it needs to go on."""

    state: TrainingState
    seed: int
    step: int = 0
    tally: Tally = field(default_factory=Tally)


class Checkpoints:
    """The checkpoints of one fit: a context, locked for its time.

    Parameters
    ----------
    folder : str, path-like or None
        None writes and finds nothing.
    interval : float or "auto"
        Seconds between checkpoints.
    identity : dict
        As :func:`skchoice.identity.identity_of` returns it.
    """

    def __init__(self, folder: Any, interval: Any, identity: dict[str, Any]):
        self._parent = None if folder is None else Path(folder)
        self._interval = interval
        self._identity = identity
        self._progress: Progress | None = None
        self._saved_step = 0
        self._torn = self._asked_to_stop = False

    def __enter__(self) -> Self:
        if self._parent is not None:
            if self._parent.is_file():
                raise ValueError(
                    f"checkpoint_dir={str(self._parent)!r} is a file: give a folder."
                )
            self._parent.mkdir(parents=True, exist_ok=True)
            self._folder, self._lock = self._lock_folder(self._parent)
            for left_over in self._folder.glob(".*.tmp"):
                left_over.unlink(missing_ok=True)
            self._last, self._cost = time.monotonic(), 0.0
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._parent is None:
            return
        try:
            if isinstance(error, KeyboardInterrupt) and not self._torn:
                self.save()
        finally:
            self._lock.release()

    def _lock_folder(self, parent: Path) -> tuple[Path, FileLock]:
        """Lock the folder of this fit; where another process has it, the next one."""
        text = json.dumps(self._identity, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        name = f"{self._identity['estimator']}-{name}"
        number = 1
        while True:
            folder = parent / (name if number == 1 else f"{name}-{number}")
            lock = FileLock(folder.with_suffix(".lock"), thread_local=False)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                number += 1
                continue
            folder.mkdir(exist_ok=True)
            return folder, lock

    def newest(self, n_features: int, n_columns: int) -> Progress | None:
        """Return the newest progress that can be read; None before the first.

        Raises
        ------
        FileRefusedError
            If it is of another fit, or was written by another version.
        """
        if self._parent is None:
            return None
        for path in sorted(self._folder.glob("step-*.safetensors"), reverse=True):
            try:
                arrays, document = tensorfile.read(path)
            except (FileRefusedError, OSError) as error:
                _warn(f"A checkpoint is left out: {error}")
                continue
            self._check_origin(path, document)
            try:
                progress = _decode(document, arrays)
                check_state(progress.state, n_features, n_columns)
            except tree.MALFORMED as error:
                _warn(f"A checkpoint is left out: {path} is damaged: {error!r}.")
                continue
            self._saved_step = progress.step
            return progress
        return None

    def _check_origin(self, path: Path, document: dict[str, Any]) -> None:
        """Refuse what another version wrote, or another fit."""
        written_by = document.get("written_by")
        if (document.get("kind"), document.get("format")) != ("checkpoint", FORMAT):
            reason = "it is no checkpoint of this format"
        elif written_by != versions():
            reason = f"it was written by {written_by}, and this is {versions()}"
        elif document.get("identity") != self._identity:
            reason = "it is of another fit: " + differences(
                document.get("identity"), self._identity
            )
        else:
            return
        raise FileRefusedError(
            f"Training cannot go on from {path}, because {reason}. Remove "
            f"{self._folder} to begin anew."
        )

    @contextlib.contextmanager
    def deferring_interrupts(self) -> Iterator[None]:
        """Let SIGINT wait for the end of a step; a second one does not wait.

        Only the main thread gets signals; in others nothing is done.
        """
        main = threading.current_thread() is threading.main_thread()
        previous = signal.getsignal(signal.SIGINT)
        if self._parent is None or not main or previous in (None, signal.SIG_IGN):
            yield
            return

        self._previous, self._asked_to_stop = previous, False
        signal.signal(signal.SIGINT, self._ask_to_stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        if self._asked_to_stop:
            self._torn = True  # the state may be between two steps
            self._give_back_signal()
        self._asked_to_stop = True

    def _give_back_signal(self) -> None:
        """Let whoever handled SIGINT before have it now; usually that raises."""
        signal.signal(signal.SIGINT, self._previous)
        signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGINT, self._ask_to_stop)
        self._asked_to_stop = self._torn = False

    def after_step(self, progress: Progress) -> None:
        """Write a checkpoint if it is time, and stop if that was asked for."""
        if self._parent is None:
            return
        self._progress = progress
        if self._asked_to_stop:
            self.save()
            self._give_back_signal()
            return  # whoever it was given to wants training to go on
        wait = self._interval
        if wait == "auto":
            wait = max(_SECONDS, _TIMES_ITS_COST * self._cost)
        if time.monotonic() - self._last >= wait:
            self.save()

    def save(self) -> None:
        """Write the progress, unless it has been; a failure is told as a warning."""
        progress = self._progress
        if progress is None or progress.step == self._saved_step:
            return
        start = time.monotonic()
        try:
            arrays: dict[str, NDArray] = {}
            document = {
                "format": FORMAT,
                "kind": "checkpoint",
                "written_by": versions(),
                "identity": self._identity,
                "seed": progress.seed,
                "step": progress.step,
                "tally": tree.encode(progress.tally, "tally", arrays, _CLASSES),
                "state": tree.encode(progress.state, "state", arrays, _CLASSES),
            }
            path = self._folder / f"step-{progress.step:012d}.safetensors"
            tensorfile.write(path, arrays, document)
            for old in sorted(self._folder.glob("step-*.safetensors"))[:-_KEPT]:
                old.unlink(missing_ok=True)
        except (OSError, ValueError) as error:  # no room, or a document too long
            _warn(f"No checkpoint could be written, and training goes on: {error}")
        self._saved_step = progress.step
        self._last = time.monotonic()
        self._cost = self._last - start

    def clear(self) -> None:
        """Remove the checkpoints of a fit that has succeeded."""
        if self._parent is None:
            return
        for path in self._folder.glob("step-*.safetensors"):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something of the user's is in it
            self._folder.rmdir()


def _decode(document: dict[str, Any], arrays: dict[str, NDArray]) -> Progress:
    progress = Progress(
        tree.decode(document["state"], arrays, _CLASSES),
        document["seed"],
        document["step"],
        tree.decode(document["tally"], arrays, _CLASSES),
    )
    if type(progress.seed) is not int or type(progress.step) is not int:
        raise ValueError("seed and step are not whole numbers")
    if progress.step < 1 or not isinstance(progress.tally, Tally):
        raise ValueError(f"step {progress.step}")
    if progress.tally.measures.shape != (4,):
        raise ValueError(f"{len(progress.tally.measures)} sums of measures")
    return progress


def _warn(message: str) -> None:
    warnings.warn(message, CheckpointWarning, stacklevel=2)
