"""FID and KID: against versions written out here, on planted shifts, in portions, and on hostile files."""

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
from safetensors.numpy import save_file

from evaluation.metrics.distance import GaussianStatistics, fid, frechet_distance, kid
from evaluation.metrics.feature_file import FeatureFile
from recipes import RecipeError


def made_up(seed: int, n: int = 400, dimension: int = 12, shift: float = 0.0) -> np.ndarray:
    """Correlated features with means far from 0."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(dimension, dimension)) / np.sqrt(dimension)
    return rng.normal(size=(n, dimension)) @ mix + 5 + shift


def statistics(features: np.ndarray, portion: int = 10**9) -> GaussianStatistics:
    counted = GaussianStatistics(features.shape[1])
    for start in range(0, len(features), portion):
        counted.add(features[start : start + portion])
    return counted


def by_square_root(a: np.ndarray, b: np.ndarray) -> float:
    """FID through the root of the full, unsymmetric product."""
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(ca @ cb).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * root))


def test_fid_is_that_of_the_matrix_root_written_out() -> None:
    a, b = made_up(0), made_up(1, 700) ** 2 / 5
    assert fid(statistics(a), statistics(b)) == pytest.approx(by_square_root(a, b), rel=1e-9)


def test_fid_of_diagonal_covariances_is_the_closed_form() -> None:
    scales, moved = np.array([0.5, 2.0, 3.0]), np.array([1.0, 4.0, 0.5])
    corners = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)], float) * np.sqrt(7 / 8)
    a, b = statistics(corners * scales), statistics(corners * moved + [1, 0, 2])
    # The eight corners, divided by 7: variances are the squared scales exactly.
    assert np.diag(a.covariance) == pytest.approx(scales**2)
    assert fid(a, b) == pytest.approx(5 + ((scales - moved) ** 2).sum(), rel=1e-12)


def test_fid_with_itself_is_nothing_and_it_is_symmetric() -> None:
    a, b = statistics(made_up(2, dimension=64)), statistics(made_up(3, dimension=64))
    assert fid(a, a) <= 1e-10 * np.trace(a.covariance)
    assert fid(a, b) == pytest.approx(fid(b, a), rel=1e-10) and fid(a, b) > 1e-3


def test_a_singular_covariance_loses_no_digits_and_is_said() -> None:
    few = made_up(4, 20, 64)
    found = frechet_distance(statistics(few), statistics(few))
    assert found.value <= 1e-10 and found.pictures == (20, 20)
    assert [warning[:35] for warning in found.warnings] == [
        "rank-deficient: the first set has 2", "rank-deficient: the second set has "
    ]  # fmt: skip
    assert frechet_distance(statistics(made_up(5, 65, 64)), statistics(made_up(6, 65, 64))).warnings == []


def test_a_planted_shift_is_found_and_a_larger_one_is_farther() -> None:
    base = statistics(made_up(7, 2000))
    near, far, farther = (fid(base, statistics(made_up(8, 2000, shift=by))) for by in (0.0, 0.2, 0.5))
    assert near < 0.05 < far < farther
    assert far - near == pytest.approx(12 * 0.2**2, rel=0.3)


def test_portions_saving_and_merging_change_last_bits_only(tmp_path: Path) -> None:
    features = made_up(9) + 1e5
    whole = statistics(features)
    first, second = statistics(features[:150], 7), statistics(features[150:], 1)
    first.save(tmp_path / "first.safetensors")
    again = GaussianStatistics.load(tmp_path / "first.safetensors")
    assert (again.covariance == first.covariance).all() and (again.mean == first.mean).all()
    again.merge(second)
    assert again.count == whole.count == 400
    assert again.mean == pytest.approx(features.mean(0), rel=1e-12)
    # A mean of 100,000 costs no digits of a covariance of 1: that of the features as they are has lost ten.
    for one in (whole, again):
        assert one.covariance == pytest.approx(np.cov(features, rowvar=False), rel=1e-8, abs=1e-10)
    second.merge(GaussianStatistics(12))
    assert second.count == 250


def test_statistics_of_other_tools_are_read(tmp_path: Path) -> None:
    a, b = statistics(made_up(10)), statistics(made_up(11))
    np.savez(tmp_path / "theirs.npz", mu=b.mean, sigma=b.covariance)
    theirs = GaussianStatistics.load(tmp_path / "theirs.npz")
    found = frechet_distance(a, theirs)
    assert found.value == pytest.approx(fid(a, b), rel=1e-12) and found.pictures == (400, None)
    assert found.warnings == ["unknown count: the second set's file does not say of how many pictures it is"]
    for call in (lambda: theirs.add(made_up(0)), lambda: a.merge(theirs), lambda: theirs.save(tmp_path / "x")):
        with pytest.raises(RecipeError, match="number of pictures is not known"):
            call()


def test_two_networks_are_not_compared() -> None:
    one, other = GaussianStatistics(2, "sha256:aa"), GaussianStatistics(2, "sha256:bb")
    for some in (one, other):
        some.add(np.eye(2))
    for call in (lambda: fid(one, other), lambda: one.merge(other)):
        with pytest.raises(RecipeError, match="two networks do not compare: found sha256:aa and sha256:bb"):
            call()


def test_what_has_no_statistics_is_refused_and_not_counted() -> None:
    counted = GaussianStatistics(3)
    with pytest.raises(RecipeError, match="a mean needs one"):
        _ = counted.mean
    counted.add(np.zeros((0, 3)))
    counted.add(np.ones((1, 3)))
    with pytest.raises(RecipeError, match="found 1 pictures; a covariance needs at least 2"):
        fid(counted, counted)
    bad = np.ones((4, 3))
    for value in (np.nan, np.inf, 1e39):
        bad[2, 1] = value
        with pytest.raises(RecipeError, match=r"row 2: found a feature that is no finite .* \(1 of 4 rows\)"):
            counted.add(bad)
    for wrong in (np.ones(3), np.ones((2, 4)), np.array([["a", "b", "c"]])):
        with pytest.raises(RecipeError, match="features"):
            counted.add(wrong)
    assert counted.count == 1
    for call in (lambda: GaussianStatistics(0), lambda: fid(statistics(made_up(0)), statistics(np.eye(3)))):
        with pytest.raises(RecipeError):
            call()


def test_damaged_statistics_are_refused_by_their_name(tmp_path: Path) -> None:
    good = {"kind": "gaussian statistics", "count": "9", "network": ""}
    eye, zero = np.eye(2), np.zeros(2)
    files: dict[str, tuple[dict[str, np.ndarray], dict[str, str] | None]] = {
        "no-kind": ({"mean": zero, "scatter": eye}, None),
        "count": ({"mean": zero, "scatter": eye}, {**good, "count": "-3"}),
        "names": ({"mean": zero}, good),
        "shape": ({"mean": np.zeros(3), "scatter": eye}, good),
        "nan": ({"mean": zero, "scatter": eye * np.nan}, good),
        "far": ({"mean": np.full(2, 1e200), "scatter": eye}, good),
        "wide": ({"mean": zero, "scatter": eye * 1e308}, good),
        "asymmetric": ({"mean": zero, "scatter": np.array([[1.0, 2], [0, 1]])}, good),
        "integers": ({"mean": zero, "scatter": np.eye(2, dtype=np.int64)}, good),
    }
    for name, (tensors, metadata) in files.items():
        save_file(tensors, tmp_path / f"{name}.safetensors", metadata=metadata)
    (tmp_path / "noise.safetensors").write_bytes(b"\xff" * 64)
    (tmp_path / "noise.npz").write_bytes(b"PK\x03\x04 no zip at all")
    np.savez(tmp_path / "others.npz", a=zero)
    np.savez(tmp_path / "objects.npz", mu=np.array([{}], dtype=object), sigma=eye)
    names = [*(f"{name}.safetensors" for name in files), "noise.safetensors", "noise.npz", "others.npz", "objects.npz"]
    for name in [*names, "none.npz", "none.safetensors"]:
        with pytest.raises(RecipeError, match=name.replace(".", r"\.")) as caught:
            GaussianStatistics.load(tmp_path / name)
        assert "\n" not in str(caught.value)
    np.savez(tmp_path / "negative.npz", mu=zero, sigma=-eye)
    with pytest.raises(RecipeError, match=r"negative\.npz: the covariance has the eigenvalue -1; it is none"):
        GaussianStatistics.load(tmp_path / "negative.npz")


def loops(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased squared MMD with the cubic kernel, pair by pair."""

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (sum(p * q for p, q in zip(a.tolist(), b.tolist(), strict=True)) / len(a) + 1) ** 3

    m = len(x)
    inner = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return inner - 2 * sum(kernel(a, b) for a in x for b in y) / (m * m)


def test_kid_of_whole_sets_is_the_double_loop() -> None:
    a, b = made_up(12, 25, 6) - 5, made_up(13, 25, 6) - 4
    found = kid(a, b, subsets=3, subset_size=25)
    # A subset of all pictures is the set in another order, so every subset has the same value.
    assert found["value"] == pytest.approx(loops(a, b), abs=2e-6)
    assert found["low"] == found["high"] == found["value"] and found["n"] == 25


def test_kid_is_unbiased_finds_a_shift_and_depends_on_its_seed_alone() -> None:
    a, b, far = made_up(14, 600) - 5, made_up(15, 600) - 5, made_up(16, 600) - 4.7
    near = kid(a, b, 40, 100, seed=1)
    assert near == kid(a, b, 40, 100, seed=1) != kid(a, b, 40, 100, seed=2)
    assert near["low"] < 0 < near["high"] and kid(a, far, 40, 100, seed=1)["low"] > 0
    values = [kid(made_up(s, 100) - 5, made_up(s + 500, 100) - 5, 1, 100)["value"] for s in range(20, 120)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))


def test_kid_reads_features_from_a_file_as_from_memory(tmp_path: Path) -> None:
    a, b = made_up(17, 300).astype(np.float32), made_up(18, 300).astype(np.float32)
    file = FeatureFile(tmp_path / "a.f32", 12, "sha256:aa")
    for start in range(0, 300, 41):
        file.add(a[start : start + 41])
        file = FeatureFile(tmp_path / "a.f32", 12)
    assert file.network == "sha256:aa" and isinstance(file.array(), np.memmap)
    assert (file.array() == a).all()
    assert kid(file.array(), b, 5, 50) == kid(a, b, 5, 50)


def test_kid_refuses_what_it_cannot_compare() -> None:
    a = made_up(19, 50)
    hole = a.copy()
    hole[:, 3] = np.nan
    for call, words in [
        (lambda: kid(a, a), "found 50 and 50 pictures, expected at least a subset of 1000"),
        (lambda: kid(a, a[:, :3], 1, 10), "expected .N, D. of one D"),
        (lambda: kid(a, a, 0, 10), "found 0 subsets of 10"),
        (lambda: kid(a, a, 1, 1), "found 1 subsets of 1"),
        (lambda: kid(a, hole, 1, 10), "KID: row 0: found a feature that is no finite number"),
        (lambda: kid(a[:0], a, 1, 10), "found 0 and 50 pictures"),
    ]:
        with pytest.raises(RecipeError, match=words):
            call()


def test_a_killed_writing_leaves_the_rows_that_were_counted(tmp_path: Path) -> None:
    file, rows = FeatureFile(tmp_path / "a.f32", 2), np.arange(6.0).reshape(3, 2)
    file.add(rows)
    with (tmp_path / "a.f32").open("ab") as half:
        half.write(b"\x01\x02\x03\x04\x05")
    again = FeatureFile(tmp_path / "a.f32", 2)
    assert (again.array() == rows).all()
    again.add(rows + 10)
    assert (FeatureFile(tmp_path / "a.f32", 2).array() == np.vstack([rows, rows + 10])).all()
    other = FeatureFile(tmp_path / "b.f32", 2)
    assert other.array().shape == (0, 2)
    other.merge(again)
    assert other.count == 6
    with pytest.raises(RecipeError, match=r"row 0: found a feature that is no finite number"):
        other.add(np.array([[np.nan, 1.0]]))
    assert FeatureFile(tmp_path / "b.f32", 2).count == 6


def test_a_damaged_feature_file_is_refused(tmp_path: Path) -> None:
    FeatureFile(tmp_path / "a.f32", 2, "x").add(np.ones((3, 2)))
    notes = (tmp_path / "a.f32.json").read_text()
    for call, words in [
        (lambda: FeatureFile(tmp_path / "a.f32", 3), "features of 2 numbers, expected 3"),
        (lambda: FeatureFile(tmp_path / "a.f32", 2, "y"), "two networks"),
    ]:
        with pytest.raises(RecipeError, match=words):
            call()
    for text in ("{", "[]", notes.replace("3", "-3"), notes.replace("3", "NaN"), notes.replace("features", "others")):
        (tmp_path / "a.f32.json").write_text(text)
        with pytest.raises(RecipeError, match=r"a\.f32\.json: not the notes of a feature file"):
            FeatureFile(tmp_path / "a.f32", 2)
    (tmp_path / "a.f32.json").write_text(notes)
    (tmp_path / "a.f32").write_bytes(b"123")
    with pytest.raises(RecipeError, match="found 3 bytes, too few for the 3 rows"):
        FeatureFile(tmp_path / "a.f32", 2)
