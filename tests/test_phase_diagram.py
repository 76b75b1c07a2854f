"""The phase diagram: what is cut out by lines, how it is named, kept, written and drawn."""

import json
import math
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import xarray
from command import run, run_json
from matplotlib.figure import Figure

from gamp_theory import AttentionModel, plotting, solve
from gamp_theory import phase_diagram as module
from gamp_theory.branch_map import Place
from gamp_theory.datasets import phase_diagram_dataset
from gamp_theory.netcdf import load, save
from gamp_theory.overlaps import Overlaps
from gamp_theory.phase_diagram import Failure, PhaseDiagram, phase_diagram
from gamp_theory.result import Status
from gamp_theory.transition_lines import TransitionLine
from gamp_theory.transitions import Transition, TransitionStatus

MODEL = AttentionModel.mixture()
SEMANTIC = Overlaps(q=0.1, m=0.0, V=1.0, theta=0.1)
POSITIONAL = Overlaps(q=0.1, m=0.2, V=1.0, theta=0.0)


def line(kind, positions, values, meaningful=True, ends=("one end", "other end")):
    size = len(positions)
    sides = (SEMANTIC, POSITIONAL) if kind == "alpha_c" else (SEMANTIC,)
    return TransitionLine(
        kind,
        "alpha",
        "omega",
        np.array(positions, float),
        np.array(values, float),
        np.full(size, 1e-5),
        np.full(size, meaningful),
        (sides,) * size,
        ends,
        7,
    )


def straight(kind, value, slope, **changes):
    """A line ``alpha = value + slope omega``, beyond the range of alpha, too."""
    omega = np.linspace(0, 0.5, 26)
    return line(kind, omega, value + slope * omega, **changes)


#: A plane like the real one: alpha_c leaves it at the top, at omega = .4.
LINES = {
    "alpha_c": straight("alpha_c", 0.6, 4.0),
    "alpha_l": straight("alpha_l", 0.7, 4.2),
    "onset_semantic": straight("onset_semantic", 0.45, 1.0, meaningful=False),
    "instability_semantic": straight("instability_semantic", 0.5, 1.5),
}


def truth(omega, alpha):
    """What is there between these lines."""
    if alpha < 0.5 + 1.5 * omega:
        return "positional only"
    if alpha < 0.6 + 4 * omega:
        return "positional; semantic metastable"
    return "semantic; positional metastable"


def point(start, loss, stable, status=Status.CONVERGED):
    return SimpleNamespace(
        start=start,
        branch=start if status is Status.CONVERGED else "",
        status=status,
        message=status.value,
        stability=SimpleNamespace(stable=stable),
        train_loss_variational=loss,
        errors=SimpleNamespace(train_loss_variational=1e-6),
    )


def probe(place, start, tol):
    """The fixed points of that plane."""
    label = truth(place.model.omega, place.alpha)
    if isinstance(start, Overlaps):
        start = "positional" if start.m else "semantic"
    if start == "zero":
        return point(start, math.nan, False, Status.DOES_NOT_EXIST)
    return point(start, 1.0 if label.startswith(start) else 2.0, start in label)


def transition(kind, omega, value):
    place = Place(MODEL.with_parameters(omega=omega), value, 0.01)
    return Transition(
        kind, "alpha", value, 1e-5, (value - 1e-5, value + 1e-5), TransitionStatus.CONVERGED, place
    )


@pytest.fixture
def plane(monkeypatch):
    """The plane above in place of what takes a minute to compute; lists the lines traced."""
    traced = []

    def survey(place, parameter, span, kinds, **_):
        omega = place.model.omega
        values = {
            kind: float(np.interp(omega, LINES[kind].positions, LINES[kind].values))
            for kind in LINES
            if kind in kinds
        }
        return [transition(k, omega, v) for k, v in values.items() if span[0] <= v <= span[1]]

    def trace(found, along, to, **_):
        traced.append(found.kind)
        return LINES[found.kind]

    monkeypatch.setattr(module, "survey_transitions", survey)
    monkeypatch.setattr(module, "trace_transition", trace)
    monkeypatch.setattr(module, "_probe", probe)
    return traced


def label_at(diagram, omega, alpha):
    """The labels of the regions that hold a place."""
    return [
        region.label
        for region in diagram.regions
        if region.omega[0] <= omega <= region.omega[-1]
        and np.interp(omega, region.omega, region.low)
        < alpha
        <= np.interp(omega, region.omega, region.high)
    ]


def test_every_place_is_in_one_region_of_the_right_name(plane):
    diagram = phase_diagram(MODEL)
    rng = np.random.default_rng(0)
    for omega, alpha in zip(rng.uniform(0, 0.5, 400), rng.uniform(0.05, 2.2, 400), strict=True):
        assert label_at(diagram, omega, alpha) == [truth(omega, alpha)]
    assert len(diagram.regions) == 3  # parts of one name that touch are one
    assert diagram.complete
    assert not diagram.failures


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_line_that_passes_a_column_twice_is_kept_once(plane, monkeypatch, jobs):
    """Both transitions are followed at the same time, if there are threads for it."""
    angle = np.linspace(0, np.pi, 41)
    arch = line("onset_positional", 0.3 * np.sin(angle), 0.6 - 0.4 * np.cos(angle))
    both = threading.Barrier(jobs)

    def survey(place, *_, **__):
        height = 0.4 * math.sqrt(max(1 - (place.model.omega / 0.3) ** 2, 0.0))
        found = [0.6 - height, 0.6 + height] if height else []
        return [transition("onset_positional", place.model.omega, value) for value in found]

    def trace(*_, **__):
        plane.append("onset_positional")
        if len(plane) <= jobs:
            both.wait(10)
        return arch

    monkeypatch.setattr(module, "survey_transitions", survey)
    monkeypatch.setattr(module, "trace_transition", trace)
    diagram = phase_diagram(MODEL, jobs=jobs)
    assert [one.kind for one in diagram.lines] == ["onset_positional"]
    assert len(plane) == jobs


def test_regions_below_an_arch_end_where_it_turns(plane, monkeypatch):
    angle = np.linspace(0, np.pi, 42)  # its top is between two points
    arch = line("onset_positional", 0.303 * np.sin(angle), 0.6 - 0.4 * np.cos(angle))

    def survey(place, *_, **__):
        return [transition("onset_positional", place.model.omega, 0.25)]

    def probed(place, start, tol):
        inside = (place.model.omega / 0.303) ** 2 + ((place.alpha - 0.6) / 0.4) ** 2 < 1
        return point("positional" if inside else "zero", 1.0, True)

    monkeypatch.setattr(module, "survey_transitions", survey)
    monkeypatch.setattr(module, "trace_transition", lambda *_, **__: arch)
    monkeypatch.setattr(module, "_probe", probed)
    diagram = phase_diagram(MODEL)
    for omega, alpha in ((0.1, 0.6), (0.29, 0.6), (0.301, 0.6)):
        assert label_at(diagram, omega, alpha) == ["positional only"]
    for omega, alpha in ((0.1, 0.15), (0.1, 1.1), (0.299, 0.7), (0.305, 0.6), (0.4, 0.6)):
        assert label_at(diagram, omega, alpha) == ["zero only"]


def test_a_line_is_traced_once_and_ends_one_point_outside(plane):
    diagram = phase_diagram(MODEL)
    assert sorted(plane) == sorted(LINES)
    (alpha_c,) = diagram.of_kind("alpha_c")
    assert alpha_c.values[-2] <= 2.2 < alpha_c.values[-1]
    assert alpha_c.ends == ("one end", "alpha leaves the range 0.05 to 2.2")
    assert len(alpha_c.states) == alpha_c.positions.size
    (semantic,) = diagram.of_kind("instability_semantic")
    assert semantic.ends == ("one end", "other end")


def test_kinds_are_chosen(plane):
    diagram = phase_diagram(MODEL, kinds=("alpha_c",))
    assert [line.kind for line in diagram.lines] == ["alpha_c"]


def test_a_line_with_a_turn_has_two_values_at_one_omega():
    turning = line("spinodal_semantic", [0.0, 0.2, 0.1], [1.0, 1.2, 1.4])
    assert module._at(turning, 0.15) == pytest.approx([1.15, 1.3])
    assert module._at(turning, 0.05) == pytest.approx([1.05])
    assert module._at(turning, 0.3) == []


def test_of_two_starts_on_one_branch_one_is_kept_in_the_order_of_losses():
    points = [
        SimpleNamespace(**{**vars(point("semantic", loss, True)), "branch": branch})
        for branch, loss in (("a", 3.0), ("b", 2.0), ("a", 1.0))
    ]
    assert [(p.branch, p.train_loss_variational) for p in module._minima(points)] == [
        ("a", 1.0),
        ("b", 2.0),
    ]


def test_where_losses_can_not_be_told_apart_there_is_no_lowest(plane, monkeypatch):
    tols = []

    def equal(place, start, tol):
        tols.append(tol)
        return point(start, 1.0, start != "zero")

    monkeypatch.setattr(module, "_probe", equal)
    diagram = phase_diagram(MODEL, kinds=())
    (region,) = diagram.regions
    assert region.label == module.NOT_KNOWN
    assert set(tols) == set(module.PROBE_TOLS)  # it has tried harder


def test_what_fails_is_in_the_data_with_its_status(plane, monkeypatch, tmp_path):
    trace = module.trace_transition

    def failing(found, *arguments, **options):
        if found.kind == "alpha_l":
            raise module.NoRoot("no root near the guess")
        return trace(found, *arguments, **options)

    def unsolved(place, start, tol):
        if start == "positional" or getattr(start, "m", 0) > 0:
            return point("positional", math.nan, False, Status.ITERATION_LIMIT)
        return probe(place, start, tol)

    monkeypatch.setattr(module, "trace_transition", failing)
    monkeypatch.setattr(module, "_probe", unsolved)
    diagram = phase_diagram(MODEL)
    assert not diagram.of_kind("alpha_l")
    assert {(f.kind, f.status) for f in diagram.failures} == {
        ("alpha_l", "solve_failed"),
        ("region", "iteration_limit"),
    }
    assert "no root near the guess" in repr(diagram)
    dataset = reopened(diagram, tmp_path)
    assert set(dataset["failure_status"].values) == {"solve_failed", "iteration_limit"}
    assert "iteration_limit" in dataset["probe_status"].values


def test_ctrl_c_keeps_the_lines_that_are_finished(plane, monkeypatch):
    trace = module.trace_transition
    stopped = threading.Event()

    def interrupted(found, *arguments, on_point, **options):
        if found.kind == "alpha_c":
            return trace(found, *arguments, **options)
        try:
            while True:  # until it is told that there is no need to go on
                on_point(0.1, 1.0)
        finally:
            stopped.set()

    def impatient(futures):
        next(done for done in real(futures) if done.done()).result()
        raise KeyboardInterrupt

    real = module.as_completed
    monkeypatch.setattr(module, "trace_transition", interrupted)
    monkeypatch.setattr(module, "as_completed", impatient)
    diagram = phase_diagram(MODEL)
    assert [line.kind for line in diagram.lines] == ["alpha_c"]
    assert not diagram.complete
    assert stopped.wait(10)
    assert "interrupted" in repr(diagram)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"alpha": (0.0, 1.0)}, r"alpha must be .*0 < low < high"),
        ({"omega": (0.4, 0.2)}, r"omega must be .*low < high <= 1"),
        ({"omega": (0.0, 1.5)}, "omega"),
        ({"kinds": ("beta",)}, "beta"),
        ({"jobs": 0}, "jobs"),
        ({"points": -1}, "points"),
        ({"lam": -1.0}, "lam"),
    ],
)
def test_bad_input_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        phase_diagram(MODEL, **changes)


# --------------------------------------------------------------------------------- dataset


def reopened(diagram, directory):
    dataset = phase_diagram_dataset(diagram)
    path = directory / "diagram.nc"
    save(dataset, path)
    again = load(path)
    xarray.testing.assert_identical(dataset, again)
    return again


def test_the_dataset_holds_lines_and_regions(plane, tmp_path):
    diagram = phase_diagram(MODEL)
    dataset = reopened(diagram, tmp_path)
    for k, one in enumerate(diagram.lines):
        part = dataset.isel(point=dataset["line_of_point"].values == k)
        assert dataset["kind"].values[k] == one.kind
        for name, expected in (
            ("omega", one.positions),
            ("alpha", one.values),
            ("alpha_error", one.errors),
            ("meaningful", one.meaningful),
        ):
            np.testing.assert_array_equal(part[name], expected)
        first = part["state"].isel(point=0)
        assert float(first.sel(overlap="theta")[0]) == SEMANTIC.theta
        assert np.isfinite(first[1]).all() == (one.kind == "alpha_c")
    for k, region in enumerate(diagram.regions):
        part = dataset.isel(cut=dataset["region_of_cut"].values == k)
        assert dataset["label"].values[k] == region.label
        np.testing.assert_array_equal(part["cut_high"], region.high)
    assert {"A", "sigma", "lam", "versions", "created", "complete"} <= set(dataset.attrs)
    assert "omega" not in dataset.attrs


def test_an_empty_diagram_is_a_dataset(tmp_path):
    nothing = PhaseDiagram(MODEL, 0.01, (0.05, 2.2), (0.0, 0.5), (), (), (), False)
    dataset = reopened(nothing, tmp_path)
    assert dataset.sizes["line"] == dataset.sizes["region"] == 0
    assert dataset.attrs["complete"] == 0
    plotting.plot_phase_diagram(dataset, Figure().subplots())


# ---------------------------------------------------------------------------------- figure


def test_the_figure_is_the_data(plane):
    diagram = phase_diagram(MODEL)
    ax = Figure().subplots()
    artists = plotting.plot_phase_diagram(diagram, ax)
    drawn = {one.get_label(): one for one in ax.lines}
    assert set(drawn) == {"alpha_c", "alpha_l", "instability_semantic"}  # onset means nothing
    (alpha_c,) = diagram.of_kind("alpha_c")
    np.testing.assert_array_equal(drawn["alpha_c"].get_ydata(), alpha_c.values)
    assert drawn["alpha_c"].get_linestyle() == "-"
    assert len({one.get_linestyle() for one in drawn.values()}) >= 2
    tints = {one.get_label() for one in ax.collections}
    assert tints == {f"region: {region.label}" for region in diagram.regions}
    words = {text.get_text().replace("\n", " ") for text in ax.texts}
    assert "semantic; positional metastable" in words
    assert words <= {region.label for region in diagram.regions}
    assert set(ax.lines) <= set(artists)
    assert ax.get_ylim() == (0.05, 2.2)


def test_a_line_is_left_out_where_it_means_nothing():
    half = line("alpha_c", [0.0, 0.1, 0.2, 0.3], [1.0, 1.1, 1.2, 1.3])
    half.meaningful[:2] = False
    diagram = PhaseDiagram(MODEL, 0.01, (0.05, 2.2), (0.0, 0.5), (half,), (), (), True)
    ax = Figure().subplots()
    plotting.plot_phase_diagram(diagram, ax)
    assert np.isfinite(ax.lines[0].get_ydata()).tolist() == [False, False, True, True]
    assert module._at(half, 0.05, meaningful=True) == []
    assert module._at(half, 0.25, meaningful=True) == pytest.approx([1.25])


# --------------------------------------------------------------------------------- command


def test_the_command_writes_and_prints_the_diagram(plane, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("gamp_theory.cli.diagram.point_record", lambda p: {"start": p.start})
    out, plot = tmp_path / "diagram.nc", tmp_path / "diagram.png"
    code, document = run_json(capsys, "diagram", "--out", out, "--plot", plot)
    assert code == 0
    assert document["status"] == "converged"
    assert document["files"] == [str(out), str(plot)]
    assert [one["kind"] for one in document["lines"]] == [
        "alpha_c",
        "alpha_l",
        "onset_semantic",
        "instability_semantic",
    ]
    assert {one["label"] for one in document["regions"]} == {
        "positional only",
        "positional; semantic metastable",
        "semantic; positional metastable",
    }
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert load(out).attrs["command"] == "gamp-theory diagram"
    code, text, _ = run(capsys, "diagram")
    assert code == 0
    assert "alpha leaves the range 0.05 to 2.2" in text
    assert "semantic; positional metastable" in text


@pytest.mark.parametrize(
    ("complete", "failures", "exit_code", "status"),
    [
        (False, (), 130, "interrupted"),
        (True, (Failure("survey", 0.1, math.nan, "solve_failed", "no luck"),), 1, "incomplete"),
    ],
)
def test_the_command_says_what_is_missing(
    capsys, monkeypatch, tmp_path, complete, failures, exit_code, status
):
    diagram = PhaseDiagram(
        MODEL, 0.01, (0.05, 2.2), (0.0, 0.5), (LINES["alpha_c"],), (), failures, complete
    )
    monkeypatch.setattr(module, "phase_diagram", lambda *_, **__: diagram)
    out = tmp_path / "part.nc"
    code, printed, err = run(capsys, "diagram", "--json", "--out", out)
    document = json.loads(printed)
    assert code == exit_code
    assert document["status"] == status
    assert len(document["lines"]) == 1
    assert len(document["failures"]) == len(failures)
    assert out.exists()
    assert ("interrupted: 1 lines" in err) is not complete


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--alpha", "1"], ["alpha", "LO:HI", "1.0"]),
        (["--omega", "0:0.5:7"], ["omega", "without :N"]),
        (["--omega", "0:1.5"], ["omega", "<= 1"]),
        (["--alpha", "2:1"], ["alpha", "low < high"]),
        (["--jobs", "0"], ["jobs"]),
        (["--plot", "diagram.xyz"], ["plot", ".png", "diagram.xyz"]),
        (["--out", "nowhere/diagram.nc"], ["out", "nowhere"]),
        (["--plot", "nowhere/diagram.png"], ["plot", "nowhere"]),
        (["--target", "1,2;3"], ["target"]),
    ],
)
def test_the_command_refuses_bad_input(capsys, arguments, words):
    code, out, err = run(capsys, "diagram", *arguments)
    assert code == 2
    assert out == ""
    for word in words:
        assert word in err


# ------------------------------------------------------------------- against the solver itself


@pytest.mark.parametrize(
    ("omega", "low", "high", "label"),
    [
        (0.3, 0.3, 0.7, "positional only"),
        (0.3, 0.95, 1.2, "positional; semantic metastable"),
        (0.3, 1.3, 1.6, "semantic; positional metastable"),
        (0.05, 1.4, 1.9, "semantic only"),
    ],
)
def test_a_region_is_named_as_an_accurate_solve_elsewhere_in_it_says(omega, low, high, label):
    drawing = module._Drawing(MODEL, (0.05, 2.2), (0.0, 0.5), 0.01, 1e-4, (), 0, 1, None)
    region = drawing.named([(omega, low, high)])
    assert region.label == label
    assert region.lowest == lowest_at(omega, np.random.default_rng(1).uniform(low, high))
    assert not drawing.failures


def test_a_minimum_that_the_named_start_misses_is_found_from_a_line():
    """At omega = .25, alpha = 2.2 the positional start falls to a second branch, a saddle."""
    state = Overlaps(q=0.0607, m=0.2359, V=12.97, theta=0.0)  # the stable one, at alpha = 2
    drawing = module._Drawing(MODEL, (0.05, 2.2), (0.0, 0.5), 0.01, 1e-4, (), 0, 1, None)
    part = [(0.25, 2.19, 2.2)]
    missed = drawing.named(part)
    assert missed.label == "semantic only"
    drawing.lines = [replace(line("instability_positional", [0.25], [2.0]), states=((state,),))]
    assert drawing.named(part).label == "semantic; positional metastable"


def lowest_at(omega, alpha):
    """The stable branch of lowest training loss, of accurate solves."""
    model = MODEL.with_parameters(omega=omega)
    found = [solve(model, alpha, 0.01, start, tol=1e-4) for start in ("semantic", "positional")]
    found = [point for point in found if point.stability.stable]
    return min(found, key=lambda point: point.train_loss).branch


@pytest.mark.slow  # three surveys and two lines: a minute
def test_a_real_diagram_agrees_with_solves_and_published_thresholds():
    diagram = phase_diagram(MODEL, (1.1, 1.9), (0.25, 0.4), kinds=("alpha_c", "alpha_l"), jobs=2)
    assert not diagram.failures
    for kind, known in (
        ("alpha_c", {0.3: 1.25153566, 0.4: 1.77151162}),
        ("alpha_l", {0.3: 1.4922705}),
    ):
        (one,) = diagram.of_kind(kind)
        for omega, value in known.items():
            # straight between its points: steps of 0.05 are off by 0.05**2/8 times a curvature of
            # about 2, relative
            assert module._at(one, omega) == [pytest.approx(value, rel=1e-3)]
    rng = np.random.default_rng(2)
    for _ in range(8):
        omega, alpha = rng.uniform(0.25, 0.4), rng.uniform(1.1, 1.9)
        (label,) = label_at(diagram, omega, alpha)
        assert label.split(";")[0] == lowest_at(omega, alpha)
