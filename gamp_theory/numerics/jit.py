"""How kernels are compiled: one decorator, one cache that can not be stale.

numba's on-disk cache looks only at the file of the function it compiles; a change in a
function called from *another* file goes unnoticed.  The cache directory therefore carries
a fingerprint of every kernel source of the package: edit one and all are compiled anew.
Kernel sources are the files named ``*kernels.py``; only they may hold kernels, and they
import nothing of the package but each other and this module.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numba

__all__ = ["cache_directory", "first_class", "kernel"]

F = TypeVar("F", bound=Callable)

PACKAGE = Path(__file__).resolve().parent.parent


def kernel(function: F) -> F:
    """Compile `function` lazily: cached, without the GIL, with IEEE division.

    No ``fastmath`` (it may reorder the sums that error estimates rest on) and no
    ``parallel`` (threads belong one level up, and forking after OpenMP kills workers).
    ``error_model="numpy"`` removes the zero-division branches that block vectorisation.
    A function from outside the package is compiled but not cached: its callees have no
    fingerprint.

    Raises
    ------
    ValueError
        If `function` stands in a file of this package that the fingerprint does not cover.
    """
    source = Path(function.__code__.co_filename).resolve()
    own = source.is_relative_to(PACKAGE)
    if own and not source.name.endswith("kernels.py"):
        raise ValueError(f"kernels stand in files named *kernels.py, got {source.name}")
    cached = own and _DIRECTORY is not None
    with _own_cache() if cached else contextlib.nullcontext():
        return numba.njit(cache=cached, nogil=True, error_model="numpy")(function)


def first_class(function: Callable, signature: Any, *, cache: bool = False) -> Any:
    """`function` compiled for one signature, to be passed to kernels as an argument.

    A kernel that takes it is compiled once for all functions of that signature, not once for each.

    Parameters
    ----------
    function : callable
        A kernel, another function that numba has compiled, or a plain function that it can.
    signature : numba signature
    cache : bool
        Whether to keep the compiled function on disk even if it stands outside the package: its
        callees have no fingerprint.  Kernels of the package are always kept.
    """
    if numba.config.DISABLE_JIT:
        return function
    plain = getattr(function, "py_func", function)
    own = Path(plain.__code__.co_filename).resolve().is_relative_to(PACKAGE)
    cached = (own or cache) and _DIRECTORY is not None
    with _own_cache() if cached else contextlib.nullcontext():
        return numba.cfunc(signature, cache=cached, error_model="numpy")(plain)


def fingerprint(package: Path = PACKAGE) -> str:
    """Hash of all kernel sources below `package`, of this file, and of numba's version."""
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sorted([*package.rglob("*kernels.py"), Path(__file__).resolve()]):
        content = source.read_bytes()
        digest.update(f"\n{source.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def cache_directory() -> Path | None:
    """Where compiled kernels live, made if need be; None where nothing can be written.

    Below ``NUMBA_CACHE_DIR`` if that is set, else the user's cache, else the system's
    temporary directory.
    """
    name = Path("gamp_theory") / f"kernels-{fingerprint()}"
    for root in _cache_roots():
        try:
            (root / name).mkdir(parents=True, exist_ok=True)
            # access() asks for permissions only: a full or read-only disk shows on writing.
            with tempfile.TemporaryFile(dir=root / name):
                return root / name
        except OSError:
            continue
    return None


def _cache_roots() -> Iterator[Path]:
    if os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(os.environ["NUMBA_CACHE_DIR"])
    if os.environ.get("XDG_CACHE_HOME"):
        yield Path(os.environ["XDG_CACHE_HOME"])
    else:
        with contextlib.suppress(RuntimeError):  # no home directory can be determined
            yield Path.home() / ".cache"
    if hasattr(os, "getuid"):
        # The name can be guessed and numba executes what it loads: nobody else may own it.
        shared = Path(tempfile.gettempdir()) / f"cache-{os.getuid()}"
        with contextlib.suppress(OSError):
            shared.mkdir(mode=0o700, exist_ok=True)
            status = shared.lstat()
            if status.st_uid == os.getuid() and not status.st_mode & 0o022:
                yield shared
    else:
        yield Path(tempfile.gettempdir()) / "cache-gamp_theory"  # already per user


_DIRECTORY = cache_directory()
_LOCK = threading.Lock()


@contextlib.contextmanager
def _own_cache() -> Iterator[None]:
    """Point numba at our directory while a kernel is declared; leave other packages alone.

    numba reads its setting when a function is decorated, and never again for that function.
    The lock keeps two threads, importing two kernel modules, from restoring each other's value.
    """
    with _LOCK:
        previous = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(_DIRECTORY)
        try:
            yield
        finally:
            numba.config.CACHE_DIR = previous
