import math
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numba
import pytest

import gamp_theory
from gamp_theory.numerics import jit

PACKAGE = Path(gamp_theory.__file__).parent

compiles = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="numba is switched off")


@pytest.fixture
def copy(tmp_path):
    """A package of the same name: jit.py, and a kernel that calls one in another file."""
    package = tmp_path / "checkout" / "gamp_theory"
    (package / "numerics").mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(PACKAGE / "numerics" / "__init__.py", package / "numerics")
    shutil.copy(PACKAGE / "numerics" / "jit.py", package / "numerics")
    write_callee(package, 2)
    (package / "caller_kernels.py").write_text(
        textwrap.dedent("""\
            from gamp_theory.callee_kernels import inner
            from gamp_theory.numerics.jit import kernel

            @kernel
            def outer(x):
                return 10 * inner(x)
            """)
    )
    return package


def write_callee(package, factor):
    """Rewrite the callee with the same size and the same time stamp: the hardest case."""
    path = package / "callee_kernels.py"
    path.write_text(
        "from gamp_theory.numerics.jit import kernel\n\n"
        f"@kernel\ndef inner(x):\n    return {factor} * x\n"
    )
    os.utime(path, (1_700_000_000, 1_700_000_000))


CALL_OUTER = """
from gamp_theory import caller_kernels
print(caller_kernels.outer(1.0), sum(caller_kernels.outer.stats.cache_hits.values()))
"""


def fresh_process(package, code, **environment):
    """What `code` prints in a process that imports the copy."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "XDG_"))}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=package.parent,
        env=inherited | {"PYTHONPATH": str(package.parent)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_an_edited_callee_in_another_file_is_seen(copy, tmp_path):
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert fresh_process(copy, CALL_OUTER, **cache) == ["20.0", "0"]
    assert fresh_process(copy, CALL_OUTER, **cache) == ["20.0", "1"]  # from the cache
    write_callee(copy, 3)
    assert fresh_process(copy, CALL_OUTER, **cache) == ["30.0", "0"]


def test_numba_alone_would_not_see_it(copy, tmp_path):
    """What the fingerprint is for: without it this same edit goes unnoticed."""
    (copy / "numerics" / "jit.py").write_text(
        "import numba\n\ndef kernel(function):\n    return numba.njit(cache=True)(function)\n"
    )
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    assert fresh_process(copy, CALL_OUTER, **cache) == ["20.0", "0"]
    write_callee(copy, 3)
    assert fresh_process(copy, CALL_OUTER, **cache) == ["20.0", "1"]


def test_fingerprint_follows_the_content_of_every_kernel_file(copy):
    seen = {jit.fingerprint(copy)}
    write_callee(copy, 3)
    seen.add(jit.fingerprint(copy))
    (copy / "numerics" / "more_kernels.py").write_text("\n")
    seen.add(jit.fingerprint(copy))
    (copy / "numerics" / "more_kernels.py").write_text("\n\n")
    seen.add(jit.fingerprint(copy))
    assert len(seen) == 4
    write_callee(copy, 2)
    (copy / "numerics" / "more_kernels.py").unlink()
    assert jit.fingerprint(copy) in seen


def test_fingerprint_ignores_what_holds_no_kernels(copy):
    before = jit.fingerprint(copy)
    (copy / "model.py").write_text("x = 1\n")
    assert jit.fingerprint(copy) == before


def test_a_cache_that_can_not_be_written_falls_back(copy, tmp_path):
    blocked = tmp_path / "a file, not a directory"
    blocked.touch()
    blocked_environment = {"NUMBA_CACHE_DIR": str(blocked), "XDG_CACHE_HOME": str(blocked)}
    where = "from gamp_theory.numerics.jit import cache_directory; print(cache_directory())"

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (directory,) = fresh_process(copy, where, TMPDIR=str(scratch), **blocked_environment)
    assert Path(directory).is_relative_to(scratch)
    assert Path(directory).is_dir()
    assert fresh_process(copy, CALL_OUTER, TMPDIR=str(scratch), **blocked_environment)[0] == "20.0"
    assert any(Path(directory).rglob("*.nbi"))


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs file ownership and modes")
def test_a_temporary_cache_that_others_can_write_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setattr(jit.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    shared = tmp_path / f"cache-{os.getuid()}"
    shared.mkdir()
    shared.chmod(0o777)
    assert jit.cache_directory() is None
    shared.chmod(0o700)
    assert jit.cache_directory().is_relative_to(shared)


def test_without_any_cache_kernels_still_compile(monkeypatch):
    monkeypatch.setattr(jit, "_DIRECTORY", None)
    code = compile(
        "def third(x):\n    return x / 3\n", str(jit.PACKAGE / "some_kernels.py"), "exec"
    )
    names = {}
    exec(code, names)
    third = jit.kernel(names["third"])
    assert third(1.0) == 1 / 3


def test_user_cache_setting_comes_first(monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "mine"))
    assert jit.cache_directory().is_relative_to(tmp_path / "mine")


def test_the_setting_of_other_packages_is_left_alone():
    elsewhere = numba.config.CACHE_DIR
    import gamp_theory.channel.pair_kernels

    assert gamp_theory.channel.pair_kernels.contrasts(0.0, 0.0) == (0.0, 0.0)
    assert elsewhere == numba.config.CACHE_DIR


@compiles
def test_a_function_from_elsewhere_is_compiled_and_not_cached():
    compiled = jit.kernel(lambda x: x + 1)
    assert compiled(1.0) == 2
    assert not compiled.stats.cache_path


def test_a_kernel_in_a_file_without_a_fingerprint_is_refused():
    code = compile("def f(x):\n    return x\n", str(jit.PACKAGE / "model.py"), "exec")
    names = {}
    exec(code, names)
    with pytest.raises(ValueError, match=r"files named \*kernels.py, got model.py"):
        jit.kernel(names["f"])


@compiles
def test_division_is_ieee():
    divide = jit.kernel(lambda x, y: x / y)
    assert divide(1.0, 0.0) == math.inf
