"""Figures: what is drawn is the data, and nothing outside the figure is touched."""

from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
import xarray
from matplotlib.figure import Figure
from matplotlib.text import Text

from gamp_theory import plotting
from gamp_theory.grids import FLAGS, grid_dataset, no_point

ALPHA = np.array([0.5, 1.0, 1.5, 2.0])
SEMANTIC, POSITIONAL, UNINFORMED = 0, 1, 2


@pytest.fixture
def dataset():
    """Four points of three branches; at the first, the semantic start ended uninformed."""
    losses = np.array([[9, 2.4, 3.0, 3.6], [1.2, 2.2, 3.2, 4.4], [9, 9, 9, 9]]) * 1e-3
    errors = np.array([[9, 2.8, 1.9, 1.4], [3.2, 3.3, 3.4, 3.5], [4.2, 4.0, 3.9, 4.1]]) * 1e-3
    grid = ("branch", "alpha")
    return xarray.Dataset(
        {
            "m": (grid, [[0] * 4, [0.2, 0.25, 0.26, 0.27], [0] * 4]),
            "m_error": (grid, np.full((3, 4), 1e-6)),
            "theta": (grid, [[0, 0.09, 0.13, 0.16], [0] * 4, [0] * 4]),
            "theta_error": (grid, np.full((3, 4), 1e-6)),
            "train_loss": (grid, losses),
            "train_loss_error": (grid, np.full((3, 4), 1e-4)),
            "test_error": (grid, errors),
            "test_error_error": (grid, np.full((3, 4), 1e-8)),
            "stable": (grid, [[False, False, True, True], [True] * 4, [False] * 4]),
            "status": (grid, np.full((3, 4), "converged")),
            "reached": (
                grid,
                [
                    ["uninformed", "semantic", "semantic", "semantic"],
                    ["positional"] * 4,
                    ["uninformed"] * 4,
                ],
            ),
            "lowest_test_error": ("alpha", [3.2e-3, 3.3e-3, 1.9e-3, 1.4e-3]),
            "lowest_branch": ("alpha", ["positional", "positional", "semantic", "semantic"]),
            "alpha_c": ((), 1.25),
            "alpha_l": ((), np.nan),
            "linear_error": ((), 2e-3),
        },
        coords={"branch": ["semantic", "positional", "uninformed"], "alpha": ALPHA},
    )


@pytest.fixture
def ax():
    return Figure().subplots()


def line(ax, label):
    """The data of the one line of that label."""
    (found,) = [line for line in ax.lines if line.get_label() == label]
    return found


def test_overlaps_are_drawn_where_the_branch_is(dataset, ax):
    artists = plotting.plot_overlaps(dataset, ax)
    assert set(artists) >= set(ax.lines)
    positional = line(ax, "m, positional, stable")
    np.testing.assert_array_equal(positional.get_xdata(), ALPHA)
    np.testing.assert_array_equal(positional.get_ydata(), [0.2, 0.25, 0.26, 0.27])
    stable, unstable = (line(ax, f"theta, semantic, {word}") for word in ("stable", "unstable"))
    # Where the start ended uninformed there is no semantic point, and the runs touch.
    np.testing.assert_array_equal(unstable.get_ydata(), [np.nan, 0.09, 0.13, np.nan])
    np.testing.assert_array_equal(stable.get_ydata(), [np.nan, np.nan, 0.13, 0.16])
    assert stable.get_linestyle() == "-"
    assert unstable.get_linestyle() == "--"
    assert stable.get_color() == unstable.get_color() == plotting.COLOURS["semantic"]


def test_training_losses_are_drawn_against_the_positional_one(dataset, ax):
    plotting.plot_train_loss(dataset, ax)
    stable = line(ax, "train_loss, semantic, stable")
    np.testing.assert_allclose(stable.get_ydata()[2:], [-0.2, -0.8], rtol=1e-12)
    band = ax.collections[-1].get_paths()[0].get_extents()  # the semantic one is drawn last
    np.testing.assert_allclose([band.ymin, band.ymax], [-0.9, 0.3], rtol=1e-12)
    assert "10^{3}" in ax.get_ylabel()


def test_the_lowest_branch_jumps_at_alpha_c(dataset, ax):
    plotting.plot_test_error(dataset, ax)
    lowest = line(ax, r"lowest $\epsilon_t$")
    np.testing.assert_array_equal(lowest.get_xdata(), [0.5, 1.0, 1.25, 1.25, 1.5, 2.0])
    np.testing.assert_allclose(lowest.get_ydata(), [3.2, 3.3, 3.35, 2.35, 1.9, 1.4], rtol=1e-12)
    assert set(line(ax, "linear layer").get_ydata()) == {2.0}


def test_a_point_with_a_number_that_missed_its_tolerance_is_drawn(dataset, ax):
    dataset["status"] = dataset["status"].astype("U20")
    dataset["status"][POSITIONAL, 0] = "quadrature_limit"
    dataset["status"][POSITIONAL, 3] = "iteration_limit"
    plotting.plot_overlaps(dataset, ax)
    np.testing.assert_array_equal(
        line(ax, "m, positional, stable").get_ydata(), [0.2, 0.25, 0.26, np.nan]
    )


def test_thresholds_that_do_not_exist_are_left_out(dataset, ax):
    plotting.mark_thresholds(dataset, ax)
    assert list(line(ax, "alpha_c").get_xdata()) == [1.25, 1.25]
    assert [line.get_label() for line in ax.lines] == ["alpha_c"]


def test_the_figure_has_three_labelled_panels(dataset, tmp_path):
    with plotting.figure() as drawn:
        artists = plotting.plot_transition(dataset, drawn.subplots(1, 3))
    assert set(artists) >= {line for ax in drawn.axes for line in ax.lines}
    assert [ax.get_title(loc="left") for ax in drawn.axes] == ["(a)", "(b)", "(c)"]
    for ax in drawn.axes:
        assert r"\alpha = n/d" in ax.get_xlabel()
        assert ax.get_ylabel()
        assert ax.get_xlim() == (0.5, 2.0)
    plotting.save(drawn, tmp_path / "figure.png")
    plotting.save(drawn, tmp_path / "figure.pdf")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def branch():
    """A semantic branch downwards: a pitchfork between the second and the third of its points."""

    def point(theta, stable, token="converged"):
        return SimpleNamespace(
            overlaps=SimpleNamespace(theta=theta),
            train_loss=theta / 50,
            stability=SimpleNamespace(stable=stable),
            status=SimpleNamespace(token=token),
        )

    return SimpleNamespace(
        name="semantic",
        parameter="alpha",
        values=np.array([1.5, 1.0, 0.8, 0.75]),
        points=(
            point(0.13, True),
            point(0.09, True),
            point(0.06, False, "quadrature_limit"),
            point(0.05, False, "iteration_limit"),
        ),
        special=(
            SimpleNamespace(kind="pitchfork", value=0.83, after=1, point=point(0.07, False)),
            SimpleNamespace(kind="merge", value=0.72, after=3, point=None),
        ),
    )


def test_a_branch_is_dashed_where_it_is_unstable(branch, ax):
    artists = plotting.plot_branch(branch, "theta", ax)
    assert set(artists) == set(ax.lines)
    stable, unstable = (line(ax, f"theta, semantic, {word}") for word in ("stable", "unstable"))
    np.testing.assert_array_equal(stable.get_xdata(), [1.5, 1.0, 0.83, 0.8, 0.75])
    np.testing.assert_array_equal(stable.get_ydata(), [0.13, 0.09, 0.07, np.nan, np.nan])
    np.testing.assert_array_equal(unstable.get_ydata(), [np.nan, np.nan, 0.07, 0.06, np.nan])
    assert unstable.get_linestyle() == "--"
    pitchfork = line(ax, "pitchfork")
    assert (pitchfork.get_xdata(), pitchfork.get_ydata()) == ([0.83], [0.07])
    assert "merge" not in [line.get_label() for line in ax.lines]  # where it is, is not known


def test_losses_of_a_branch_are_drawn_in_thousandths(branch):
    artists = plotting.plot_branch(branch, "train_loss")
    np.testing.assert_allclose(artists[0].get_ydata()[:2], [2.6, 1.8], rtol=1e-12)
    assert "10^{3}" in artists[0].axes.get_ylabel()


def test_a_branch_has_no_other_quantities(branch):
    with pytest.raises(ValueError, match="name must be one of q, m, V, theta"):
        plotting.plot_branch(branch, "replicon")


def test_without_axes_a_figure_is_made(dataset):
    artists = plotting.plot_test_error(dataset)
    assert artists[0].figure is not None


def test_settings_outside_are_left_alone(dataset, tmp_path):
    before = dict(mpl.rcParams)
    plotting.save(plotting.plot_transition(dataset)[0].figure, tmp_path / "figure.png")
    assert dict(mpl.rcParams) == before


def test_the_style_holds_only_within_the_block():
    with plotting.figure(3, 2) as drawn:
        assert mpl.rcParams["font.size"] == 8
        assert list(drawn.get_size_inches()) == [3, 2]


def test_branches_differ_in_grey():
    """Luminance, as a printer without colours would show it."""
    grey = [
        np.array([0.2126, 0.7152, 0.0722]) @ mpl.colors.to_rgb(colour)
        for colour in plotting.COLOURS.values()
    ]
    assert np.diff(sorted(grey)).min() > 0.05


def plane(mass, lowest_above=1.2):
    """A sweep on alpha x omega with a known jump mass: semantic is lowest above an alpha."""
    alpha, omega = np.linspace(0.5, 2, 16), np.linspace(0, 0.5, 11)
    shape = (alpha.size, omega.size, 2)
    columns = {name: np.zeros(shape) for name in no_point("converged")}
    columns["stable"] = np.full(shape, FLAGS["stable"][1].index("stable"))
    above = (alpha > lowest_above)[:, None] & np.ones(omega.size, bool)
    columns["train_loss"] = np.stack([np.where(above, 1.0, 2.0), np.where(above, 2.0, 1.0)], axis=2)
    columns["jump_mass"] = np.stack([mass(*np.meshgrid(alpha, omega, indexing="ij"))] * 2, axis=2)
    return grid_dataset(
        "sweep",
        {"alpha": list(alpha), "omega": list(omega), "sigma": 0.5, "lam": 0.01},
        ("semantic", "positional"),
        columns,
        A=((0.6, 0.4), (0.4, 0.6)),
        tol=1e-4,
        computed_with="",
    )


def test_contours_of_the_jump_mass_are_where_it_has_their_value():
    drawn = plotting.plot_jump_mass(plane(lambda alpha, omega: 10 ** (-2 * alpha)), None, (1e-3,))
    semantic, *names = drawn
    assert len([one for one in drawn if hasattr(one, "levels")]) == 2
    vertices = np.concatenate([path.vertices for path in semantic.get_paths()])
    assert vertices[:, 1] == pytest.approx(1.5, abs=1e-9)
    assert [name.get_text() for name in names if isinstance(name, Text)] == ["0.001"]


def test_contours_do_not_cross_from_one_branch_to_another():
    dataset = plane(lambda alpha, omega: 10 ** (-1 - 4 * omega))  # contours along alpha
    found = [
        np.concatenate([path.vertices for path in one.get_paths()])[:, 1]
        for one in plotting.plot_jump_mass(dataset, None, (1e-2,))
        if hasattr(one, "levels")
    ]
    assert len(found) == 2
    semantic, positional = found
    assert semantic.min() > 1.2 > positional.max()


def test_contours_need_alpha_and_omega():
    with pytest.raises(ValueError, match="dataset must have the axes alpha and omega, got alpha"):
        plotting.plot_jump_mass(plane(lambda alpha, omega: alpha).isel(omega=0))
