"""Files come back as they were written, or are refused with the reason."""

import errno
import os
import pickle

import h5netcdf
import numpy as np
import pytest
import xarray
from command import run

from gamp_theory import AttentionModel, load
from gamp_theory.grids import curve_dataset
from gamp_theory.netcdf import save
from gamp_theory.sweep import merge, sweep
from gamp_theory.tracing import trace

MODEL = AttentionModel.mixture()


@pytest.fixture(scope="module")
def dataset():
    return sweep(MODEL, alpha=np.linspace(0.5, 2, 8), lam=[0.1, 0.01], branches="zero")


@pytest.fixture
def path(dataset, tmp_path):
    save(dataset, tmp_path / "sweep.nc")
    return tmp_path / "sweep.nc"


def changed(path, **attrs):
    """The file with other attributes; None takes one away."""
    with h5netcdf.File(path, "r+") as file:
        for name, value in attrs.items():
            del file.attrs[name]
            if value is not None:
                file.attrs[name] = value
    return path


def test_a_file_comes_back_as_it_was_written(dataset, path):
    again = load(str(path))
    xarray.testing.assert_identical(again, dataset)
    assert again["q"].values.tobytes() == dataset["q"].values.tobytes()
    path.unlink()  # it is closed, and everything is in memory
    assert float(again["V"].sum()) > 0


def test_a_file_says_what_is_in_it(path):
    again = load(path)
    assert again.attrs["kind"] == "sweep"
    assert again.attrs["tol"] == 1e-6
    for package in ("gamp_theory", "python", "numpy", "scipy", "numba"):
        assert package in again.attrs["versions"]
    for variable in again.variables.values():
        assert variable.attrs["long_name"]
    flags = again["status"].attrs
    words = dict(zip(flags["flag_values"], flags["flag_meanings"].split(), strict=True))
    assert words[again["status"].values[0, 0, 0, 0]] == "converged"
    assert words[again["status"].values[0, 0, 1, 0]] == "does_not_exist"


@pytest.mark.parametrize("along", ["alpha", "omega"])
def test_a_curve_is_a_grid_with_one_axis(capsys, tmp_path, along):
    if along == "omega":
        points = {"zero": trace(MODEL, [0.1, 0.3], 0.1, "zero", alpha=1.0, along="omega")}
        dataset = curve_dataset({**points, "semantic": points["zero"][:1]}, "omega", [0.1, 0.3])
        assert dataset["q"].dims == ("omega", "branch")
        assert float(dataset["alpha"]) == 1.0
        assert dataset["status"].values.tolist() == [[0, 6], [0, 8]]
        assert dataset["q"].notnull().values.tolist() == [[True, False], [True, False]]
        return
    path = tmp_path / "curve.nc"
    options = ("--alpha", "2:1:2", "--lam", 0.1, "--branch", "zero", "--data", path)
    assert run(capsys, "curve", *options)[0] == 0
    dataset = load(path)
    assert dataset.attrs["kind"] == "curve"
    assert dataset["q"].dims == ("alpha", "branch")
    table = sweep(MODEL, alpha=[2.0, 1.0], omega=0.3, lam=0.1, branches="zero")
    xarray.testing.assert_equal(dataset, table.isel(omega=0))


def test_curve_refuses_a_file_it_can_not_write(capsys, tmp_path):
    options = ("curve", "--alpha", "2:1:2", "--data", tmp_path / "nowhere" / "curve.nc")
    code, _, err = run(capsys, *options)
    assert code == 2
    assert "data must be a file in a directory that can be written to" in err


def test_a_file_from_the_future(path):
    changed(path, schema_version=2, versions="gamp_theory 9.0.0")
    with pytest.raises(ValueError, match=r"schema version 2, written by gamp_theory 9.0.0.* later"):
        load(path)


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"schema": None}, "was not written by gamp_theory"),
        ({"schema": "other"}, "was not written by gamp_theory"),
        ({"schema_version": None}, "has schema version None"),
        ({"kind": "poem"}, "is damaged: it is of the unknown kind 'poem'"),
        ({"kind": "transition", "tol": None}, None),
        ({"kind": "phase_diagram"}, "is damaged: a phase_diagram without kind, label"),
    ],
)
def test_a_file_that_is_not_what_it_says(path, attrs, message):
    changed(path, **attrs)
    if message is None:
        load(path)  # attributes but those three are for people
        return
    with pytest.raises(ValueError, match=message):
        load(path)


def test_a_file_of_another_program(tmp_path):
    path = tmp_path / "other.nc"
    xarray.Dataset({"x": ("t", [1.0, 2.0])}).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ValueError, match="was not written by gamp_theory"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"CDF\x01", b"text\n", b"\x80\x04\x95."])
def test_a_file_that_is_no_netcdf(tmp_path, content):
    path = tmp_path / "file.nc"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a netCDF-4 file"):
        load(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing.nc")


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"is damaged|is not a netCDF-4 file"):
        load(path)


def test_a_wrong_bit_in_a_number_is_seen(dataset, path):
    content = bytearray(path.read_bytes())
    number = dataset["V"].values.ravel()[3].tobytes()
    at = content.index(number)
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        load(path)


def test_a_full_disk_leaves_the_old_file(dataset, monkeypatch, path):
    content = path.read_bytes()

    def full(self, target, **options):
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(xarray.Dataset, "to_netcdf", full)
    with pytest.raises(OSError, match="No space left"):
        save(dataset, path)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_merge_on_a_full_disk_says_so(capsys, dataset, monkeypatch, tmp_path):
    sweep(MODEL, alpha=1.0, lam=0.1, branches="zero", out=tmp_path / "sweep")

    def full(self, target, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(xarray.Dataset, "to_netcdf", full)
    code, out, err = run(capsys, "merge", tmp_path / "sweep", "--out", tmp_path / "file.nc")
    assert (code, out) == (1, "")
    assert "No space left" in err
    assert not (tmp_path / "file.nc").exists()


def test_nothing_is_unpickled(monkeypatch, path, tmp_path):
    folder = tmp_path / "sweep"
    sweep(MODEL, alpha=1.0, lam=0.1, branches="zero", out=folder)
    load(path)  # what is imported for it may do as it likes

    def refused(*arguments, **options):
        pytest.fail("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refused)
    assert load(path).attrs["kind"] == merge(folder).attrs["kind"] == "sweep"
