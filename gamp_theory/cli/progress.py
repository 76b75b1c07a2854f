"""A progress bar on standard error."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TextIO

__all__ = ["progress"]


@contextlib.contextmanager
def progress(total: int | None, unit: str) -> Iterator[Callable[..., object]]:
    """A progress bar on stderr; what is yielded advances it, from any thread."""
    from tqdm import tqdm

    stream: TextIO = sys.stderr
    # A log file is not a screen: there, a line every ten seconds is enough.
    interval = 0.1 if stream.isatty() else 10.0
    with tqdm(total=total, desc=unit, file=stream, leave=False, mininterval=interval) as bar:
        lock = threading.Lock()

        def advance(steps: int = 1) -> None:
            with lock:
                bar.update(steps)

        yield advance
