"""Mechanisms of any number of tokens and any rank: from fields (L, r) to attention matrices (L, L).

Softmax with a temperature and a causal mask, linear attention, mixtures with a fixed matrix, and
one's own: from sympy expressions, or from functions that numba can compile.  All enter compiled
kernels as functions, so that a new mechanism compiles itself and nothing else.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from gamp_theory import token_mechanism_kernels as kernels
from gamp_theory.files import replacing
from gamp_theory.mechanisms import DEFAULT_A, SoftmaxMixture
from gamp_theory.numerics.jit import cache_directory, first_class

__all__ = [
    "CompiledMechanism",
    "FixedMixture",
    "LinearAttention",
    "MechanismFunctions",
    "RowSoftmax",
    "SympyMechanism",
    "TokenMechanism",
    "attention",
    "check_mechanism",
    "curvatures",
    "is_even",
    "is_flat_at_rest",
    "is_rotation_invariant",
    "pullback",
]

Array = NDArray[np.float64]

_VECTOR, _MATRIX, _CUBE = (numba.types.Array(numba.float64, k, "C") for k in (1, 2, 3))
VALUE = numba.void(_MATRIX, _VECTOR, _MATRIX)
FIRST = numba.void(_MATRIX, _VECTOR, _MATRIX, _CUBE)
SECOND = numba.void(_MATRIX, _VECTOR, _MATRIX, _MATRIX)

#: Fields at which a mechanism is checked: their size, and how many of each.
CHECK_SCALES = (0.3, 1.0, 2.0)
CHECK_STEP = 1e-5
CHECK_TOL = 1e-5


class MechanismFunctions(NamedTuple):
    """What kernels call, see :mod:`gamp_theory.token_mechanism_kernels`.

    The attention matrix is ``(1 - omega) S + omega A`` with S from the functions.
    """

    value: Any
    first: Any
    second: Any
    params: Array
    omega: float
    A: Array


class TokenMechanism(Protocol):
    """What is asked of a mechanism: its compiled functions at given numbers of tokens and ranks."""

    def functions(self, tokens: int, rank: int) -> MechanismFunctions:
        """Functions for fields of shape (tokens, rank).

        Raises
        ------
        ValueError
            If the mechanism has another shape.
        """
        ...


@functools.cache
def _compiled(value: Callable, first: Callable, second: Callable, keep: bool) -> tuple:
    signatures = zip((value, first, second), (VALUE, FIRST, SECOND), strict=True)
    return tuple(first_class(f, signature, cache=keep) for f, signature in signatures)


def _plain(functions: tuple, params: Sequence[float], tokens: int) -> MechanismFunctions:
    value, first, second = functions
    vector = np.array(params, dtype=float)
    return MechanismFunctions(value, first, second, vector, 0.0, np.zeros((tokens, tokens)))


@dataclass(frozen=True)
class RowSoftmax:
    """Row softmax of ``h h^T / temperature``; with `causal`, token i attends to tokens up to i.

    Raises
    ------
    ValueError
        If `temperature` is not positive and finite.
    """

    temperature: float = 1.0
    causal: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be positive, got {self.temperature!r}")

    def functions(self, tokens: int, rank: int) -> MechanismFunctions:
        """See :class:`TokenMechanism`."""
        names = (kernels.softmax_value, kernels.softmax_first, kernels.softmax_second)
        functions = _compiled(*names, False)
        return _plain(functions, (1 / self.temperature, float(self.causal)), tokens)


@dataclass(frozen=True)
class LinearAttention:
    """``S = scale h h^T``, not normalised; with `causal`, its lower triangle.

    Raises
    ------
    ValueError
        If `scale` is not finite or 0.
    """

    scale: float = 1.0
    causal: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale != 0):
            raise ValueError(f"scale must be finite and not 0, got {self.scale!r}")

    def functions(self, tokens: int, rank: int) -> MechanismFunctions:
        """See :class:`TokenMechanism`."""
        names = (kernels.linear_value, kernels.linear_first, kernels.linear_second)
        return _plain(_compiled(*names, False), (self.scale, float(self.causal)), tokens)


@dataclass(frozen=True)
class FixedMixture:
    """``(1 - omega) S + omega A``: a mechanism mixed with a fixed row-stochastic matrix.

    Attributes
    ----------
    omega : float
        Weight of A, in [0, 1].
    A : nested sequence of float
        Row-stochastic L x L matrix.
    inner : TokenMechanism
        The mechanism S.

    Raises
    ------
    ValueError
        If `omega` is outside [0, 1] or `A` is not square and row-stochastic.
    """

    omega: float
    A: Sequence[Sequence[float]] | NDArray[np.float64] = DEFAULT_A
    inner: TokenMechanism = field(default_factory=RowSoftmax)

    def __post_init__(self) -> None:
        checked = SoftmaxMixture(self.omega, self.A)
        object.__setattr__(self, "omega", checked.omega)
        object.__setattr__(self, "A", checked.A)
        if isinstance(self.inner, FixedMixture):
            raise ValueError("a mixture of a mixture is a mixture with another A: give that one")

    def functions(self, tokens: int, rank: int) -> MechanismFunctions:
        """See :class:`TokenMechanism`."""
        if len(self.A) != tokens:
            raise ValueError(f"A must be {tokens} x {tokens}, got {len(self.A)} x {len(self.A)}")
        inner = self.inner.functions(tokens, rank)
        return inner._replace(omega=self.omega, A=np.array(self.A))


@dataclass(frozen=True)
class CompiledMechanism:
    """A mechanism out of three functions that numba can compile.

    They fill the arrays they are given, for every h, and use no globals but constants; their form
    is that of :mod:`gamp_theory.token_mechanism_kernels`.  :func:`check_mechanism` compares them
    with differences.

    Attributes
    ----------
    value : callable
        ``value(h, params, S)``: attention matrix S, shape (L, L), of h, shape (L, r).
    first : callable
        ``first(h, params, S, dS)``: the same, and ``dS[i, j, l r + a] = dS[i, j]/dh[l, a]``.
    second : callable
        ``second(h, params, W, H)``: ``H = sum_ij W[i, j] d^2 S[i, j]``, shape (L r, L r).
    params : tuple of float
        Handed to all three as an array.
    """

    value: Callable
    first: Callable
    second: Callable
    params: tuple[float, ...] = ()

    def functions(self, tokens: int, rank: int) -> MechanismFunctions:
        """See :class:`TokenMechanism`."""
        functions = _compiled(self.value, self.first, self.second, False)
        return _plain(functions, self.params or (0.0,), tokens)


@dataclass(frozen=True, eq=False)
class SympyMechanism:
    """A mechanism out of sympy expressions; derivatives are generated and compiled once.

    Attributes
    ----------
    matrix : nested sequence of sympy expressions, or sympy matrix
        L x L.
    fields : nested sequence of sympy symbols, or sympy matrix
        L x r: the symbols that stand for h in `matrix`; no others may occur.

    Raises
    ------
    ValueError
        If the shapes disagree or an expression holds another symbol.

    Examples
    --------
    A student that attends with the hyperbolic tangent of its scores::

        h = sympy.symbols("h0:2")
        SympyMechanism([[sympy.tanh(a * b) for b in h] for a in h], [[x] for x in h])
    """

    matrix: Any
    fields: Any

    def __post_init__(self) -> None:
        import sympy

        matrix, symbols = sympy.Matrix(self.matrix), sympy.Matrix(self.fields)
        if matrix.shape != (symbols.rows, symbols.rows):
            raise ValueError(
                f"matrix must be {symbols.rows} x {symbols.rows}, one row for each row of fields, "
                f"got shape {matrix.shape}"
            )
        strangers = matrix.free_symbols - set(symbols)
        if strangers:
            raise ValueError(
                f"matrix holds symbols that are not fields: {sorted(map(str, strangers))}"
            )
        if len(set(symbols)) != len(symbols) or not all(s.is_Symbol for s in symbols):
            raise ValueError("fields must be distinct symbols")
        object.__setattr__(self, "matrix", sympy.ImmutableMatrix(matrix))
        object.__setattr__(self, "fields", sympy.ImmutableMatrix(symbols))

    def functions(self, tokens: int, rank: int) -> MechanismFunctions:
        """See :class:`TokenMechanism`."""
        if self.fields.shape != (tokens, rank):
            raise ValueError(
                f"the mechanism is one of fields of shape {self.fields.shape}, got {(tokens, rank)}"
            )
        module = _generated(self.matrix, self.fields)
        functions = _compiled(module.value, module.first, module.second, True)
        return _plain(functions, (0.0,), tokens)


@functools.cache
def _generated(matrix: Any, symbols: Any) -> Any:
    """The module with the three functions of a matrix of expressions, written once."""
    import sympy

    key = sympy.srepr((matrix, symbols, sympy.__version__))
    name = f"mechanism_{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    root = cache_directory()
    if root is None:  # nothing can be written: what is generated lives in memory
        module = type(numba)(name)
        exec(_source(matrix, symbols), module.__dict__)
        return module
    path = root / f"{name}.py"
    if not path.exists():
        with replacing(path) as temporary:
            temporary.write_text(_source(matrix, symbols), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # numba looks for the module of what it has stored
    spec.loader.exec_module(module)
    return module


def _source(matrix: Any, symbols: Any) -> str:
    """Python source of value, first and second, with common subexpressions computed once."""
    import sympy

    tokens, rank = symbols.shape
    h = sympy.symbols(f"h_:{tokens}_:{rank}")
    matrix = matrix.xreplace(dict(zip(symbols, h, strict=True)))
    W = sympy.Matrix(tokens, tokens, sympy.symbols(f"w_:{tokens}_:{tokens}"))
    entries = [(i, j) for i in range(tokens) for j in range(tokens)]
    S = {f"S[{i}, {j}]": matrix[i, j] for i, j in entries}
    dS = {
        f"dS[{i}, {j}, {x}]": sympy.diff(matrix[i, j], h[x])
        for i, j in entries
        for x in range(len(h))
    }
    total = sum((W[i, j] * matrix[i, j] for i, j in entries), sympy.Integer(0))
    H = {f"H[{x}, {y}]": sympy.diff(total, h[x], h[y]) for x in range(len(h)) for y in range(x + 1)}
    mirror = [f"    H[{y}, {x}] = H[{x}, {y}]" for x in range(len(h)) for y in range(x)]
    load_h = [f"    {h[l * rank + a]} = h[{l}, {a}]" for l in range(tokens) for a in range(rank)]
    load_W = [f"    {W[i, j]} = W[{i}, {j}]" for i, j in entries]
    return "\n".join(
        [
            '"""Generated from sympy expressions."""',
            "import math",
            *_function("value(h, params, S)", load_h, S, []),
            *_function("first(h, params, S, dS)", load_h, S | dS, []),
            *_function("second(h, params, W, H)", load_h + load_W, H, mirror),
            "",
        ]
    )


def _function(head: str, loads: list[str], outputs: dict[str, Any], tail: list[str]) -> list[str]:
    import sympy
    from sympy.printing.pycode import PythonCodePrinter

    printer = PythonCodePrinter({"fully_qualified_modules": True})
    common, reduced = sympy.cse(list(outputs.values()), symbols=sympy.numbered_symbols("x"))
    lines = [f"    {name} = {printer.doprint(value)}" for name, value in common]
    lines += [
        f"    {target} = {printer.doprint(value)}"
        for target, value in zip(outputs, reduced, strict=True)
    ]
    return ["", "", f"def {head}:", *loads, *lines, *tail]


# -- evaluation in Python ----------------------------------------------------------------------


def attention(mechanism: TokenMechanism, h: ArrayLike) -> Array:
    """Attention matrices, shape (..., L, L), of fields of shape (..., L, r)."""
    h = np.ascontiguousarray(h, dtype=float)
    tokens, rank = h.shape[-2:]
    f = mechanism.functions(tokens, rank)
    out = np.empty((math.prod(h.shape[:-2]), tokens, tokens))
    kernels.batch_value(f.value, h.reshape(-1, tokens, rank), f.params, out)
    out = (1 - f.omega) * out + f.omega * f.A
    return out.reshape(*h.shape[:-2], tokens, tokens)


def pullback(mechanism: TokenMechanism, h: ArrayLike, W: ArrayLike) -> Array:
    """``sum_ij W_ij dS_ij/dh``, shape (..., L, r), at fields of that shape; W is (..., L, L)."""
    h = np.ascontiguousarray(h, dtype=float)
    tokens, rank = h.shape[-2:]
    f = mechanism.functions(tokens, rank)
    flat = h.reshape(-1, tokens, rank)
    W = np.ascontiguousarray(W, dtype=float).reshape(-1, tokens, tokens)
    out = np.empty((len(flat), tokens * rank))
    kernels.batch_pullback(f.first, flat, f.params, W, out)
    return (1 - f.omega) * out.reshape(h.shape)


def check_mechanism(mechanism: TokenMechanism, tokens: int, rank: int) -> None:
    """Compare a mechanism's derivatives with differences at random fields.

    Raises
    ------
    ValueError
        Naming the entry that is not finite or not the derivative, both values, and the fields.
    """
    f = mechanism.functions(tokens, rank)
    rng = np.random.default_rng(0)
    N = tokens * rank
    points = [np.zeros((tokens, rank)), np.full((tokens, rank), 30.0)]
    points += [scale * rng.standard_normal((tokens, rank)) for scale in CHECK_SCALES]
    for k, h in enumerate(points):
        W = rng.standard_normal((tokens, tokens))
        S, S_first, dS, H = _evaluate(f, h, W)
        for name, entries in (("S", S), ("dS", dS), ("d2S", H)):
            if not np.all(np.isfinite(entries)):
                at = np.argwhere(~np.isfinite(entries))[0].tolist()
                raise ValueError(
                    f"the mechanism's {name} is not finite in entry {at} at h = {h.tolist()}"
                )
        _compare("S from `first`", S_first, S, h, lambda i: f"S[{i[0]}, {i[1]}]")
        if k == 1:
            continue  # differences far out say nothing: only overflow was to be seen
        slope, curvature = np.empty_like(dS), np.empty_like(H)
        for x in range(N):
            step = np.zeros(N)
            step[x] = CHECK_STEP
            up = _evaluate(f, h + step.reshape(h.shape), W)
            down = _evaluate(f, h - step.reshape(h.shape), W)
            slope[:, :, x] = (up[0] - down[0]) / (2 * CHECK_STEP)
            curvature[:, x] = np.einsum("ij,ijx->x", W, up[2] - down[2]) / (2 * CHECK_STEP)
        _compare(
            "first",
            dS,
            slope,
            h,
            lambda i: f"dS[{i[0]}, {i[1]}]/dh[{i[2] // rank}, {i[2] % rank}]",
        )
        _compare(
            "second",
            H,
            curvature,
            h,
            lambda i: (
                f"the contraction d2/dh[{i[0] // rank}, {i[0] % rank}]"
                f"dh[{i[1] // rank}, {i[1] % rank}]"
            ),
        )


def _evaluate(f: MechanismFunctions, h: Array, W: Array) -> tuple[Array, Array, Array, Array]:
    """S, S again, dS and the contracted second derivative; entries left out are not finite."""
    tokens, N = len(h), h.size
    S, S_first = np.full((2, tokens, tokens), np.nan)
    dS, H = np.full((tokens, tokens, N), np.nan), np.full((N, N), np.nan)
    kernels.batch_value(f.value, h[None], f.params, S[None])
    kernels.single_derivatives(f.first, f.second, h, f.params, W, S_first, dS, H)
    return S, S_first, dS, H


def _compare(
    what: str, got: Array, want: Array, h: Array, entry: Callable[[list[int]], str]
) -> None:
    scale = 1 + np.max(abs(want))
    wrong = abs(got - want) > CHECK_TOL * scale
    if np.any(wrong):
        at = [int(i) for i in np.unravel_index(np.argmax(abs(got - want)), got.shape)]
        raise ValueError(
            f"the mechanism's {what} is wrong: {entry(at)} = {got[tuple(at)]:.8g}, differences "
            f"give {want[tuple(at)]:.8g} (one of {int(wrong.sum())} such entries; "
            f"h = {h.tolist()})"
        )


def curvatures(mechanism: TokenMechanism, h: ArrayLike) -> Array:
    """``d^2 S_ij/dh dh`` at one h of shape (L, r), shape (L, L, L r, L r)."""
    h = np.ascontiguousarray(h, dtype=float)
    f = mechanism.functions(*h.shape)
    tokens = len(h)
    found = np.empty((tokens, tokens, h.size, h.size))
    for i in range(tokens):
        for j in range(tokens):
            W = np.zeros((tokens, tokens))
            W[i, j] = 1.0
            found[i, j] = _evaluate(f, h, W)[3]
    return (1 - f.omega) * found


def is_flat_at_rest(mechanism: TokenMechanism, tokens: int, rank: int) -> bool:
    """Whether the first derivatives of S vanish at h = 0."""
    f = mechanism.functions(tokens, rank)
    dS = _evaluate(f, np.zeros((tokens, rank)), np.zeros((tokens, tokens)))[2]
    return bool(np.max(abs(dS)) <= 1e-12)


def is_even(mechanism: TokenMechanism, tokens: int, rank: int) -> bool:
    """Whether ``S(-h) = S(h)`` at random fields."""
    h = np.random.default_rng(1).standard_normal((8, tokens, rank))
    return bool(np.allclose(attention(mechanism, h), attention(mechanism, -h), rtol=0, atol=1e-12))


def is_rotation_invariant(mechanism: TokenMechanism, tokens: int, rank: int) -> bool:
    """Whether ``S(h O) = S(h)`` for random orthogonal O, at random fields."""
    rng = np.random.default_rng(2)
    h = rng.standard_normal((8, tokens, rank))
    O = np.linalg.qr(rng.standard_normal((rank, rank)))[0]
    return bool(np.allclose(attention(mechanism, h), attention(mechanism, h @ O), atol=1e-11))
