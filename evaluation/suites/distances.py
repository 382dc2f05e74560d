"""Rows that compare pictures by their features: FID and KID to real pictures, drift from base to aligned model."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.intervals import bootstrap_mean
from evaluation.prompt_sets.loading import NotAtHandError
from evaluation.protocols.protocol import Protocol
from evaluation.suites.bench import Bench, Measured, Pictures
from evaluation.suites.portions import over_files, over_pictures, picture_files

if TYPE_CHECKING:
    from evaluation.metrics.distance import GaussianStatistics
    from evaluation.metrics.feature_file import FeatureFile

# KID's usual subsets (its authors' code); smaller sets are compared whole.
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
_NO_INTERVAL = "one number of the whole set: no interval and no paired test"


def fid(bench: Bench, protocol: Protocol, drawn: Pictures, label: str) -> Measured:
    """Frechet distance to the real pictures, of each model; too few pictures leave the row empty."""
    from evaluation.metrics.distance import GaussianStatistics, frechet_distance

    network, reference = bench.models.features, real_statistics(bench)
    real = reference.count
    if len(drawn.prompts) < 2 or (real is not None and real < 2):
        raise NotAtHandError(
            f"too few pictures for FID: {len(drawn.prompts)} drawn and {real} real ones, expected 2 or more"
        )
    pictures = f"{'an unknown number of' if real is None else real} real pictures"
    measured = Measured(notes=[_NO_INTERVAL, pictures, f"{network.dimension} features of {bench.models.network_label}"])
    for name, keys in drawn.models:
        statistics = GaussianStatistics(network.dimension, network.identity)
        for _, names, read in over_pictures(bench.pictures, keys, f"{label} {name}: features"):
            statistics.add(_features(bench, names, read))
        found = frechet_distance(statistics, reference)
        setattr(measured, name, {"value": round(found.value, 6), "low": None, "high": None, "n": len(keys)})
        measured.notes += [warning for warning in found.warnings if warning not in measured.notes]
    measured.difference = _change(measured, len(drawn.prompts))
    return measured


def kid(bench: Bench, protocol: Protocol, drawn: Pictures, label: str) -> Measured:
    """Kernel distance to the real pictures, of each model, as the mean over subsets; too few pictures leave the row
    empty. The ends are quantiles over subsets, not an interval of the mean."""
    from evaluation.metrics import distance

    real = real_features(bench)
    fewest = min(len(drawn.prompts), real.count)
    if fewest < 2:
        raise NotAtHandError(
            f"too few pictures for KID: {len(drawn.prompts)} drawn and {real.count} real ones, expected 2 or more"
        )
    size = min(KID_SUBSET_SIZE, fewest)
    subsets = f"{KID_SUBSETS} subsets of {size} pictures; in brackets how far single subsets lie apart; no paired test"
    network = bench.models.features
    described = f"{network.dimension} features of {bench.models.network_label}"
    measured = Measured(notes=[subsets, f"{real.count} real pictures", described])
    for name, keys in drawn.models:
        portions = over_pictures(bench.pictures, keys, f"{label} {name}: features")
        file = _on_disk(bench, ["kid", network.identity, keys], ((names, read) for _, names, read in portions))
        found = distance.kid(file.array(), real.array(), KID_SUBSETS, size, protocol.seed, protocol.confidence)
        setattr(measured, name, {**found, "n": len(keys)})
    measured.difference = _change(measured, len(drawn.prompts))
    return measured


def feature_drift(bench: Bench, protocol: Protocol, drawn: Pictures, label: str) -> Measured:
    """How far the aligned model's pictures lie from the base model's of the same prompts and seeds: the mean of 1 -
    cosine of their features, 0 (the same) to 2, with its bootstrap interval."""
    from evaluation.metrics.means import feature_drift as drift

    measured = Measured(empty=["base: drift is a comparison with the base, which has none of its own"])
    if drawn.aligned is None:
        return measured
    portions = [over_pictures(bench.pictures, keys, f"{label} {name}: features") for name, keys in drawn.models]
    values: list[float] = []
    for (_, base, read_base), (_, aligned, read_aligned) in zip(*portions, strict=True):
        values += drift(_features(bench, base, read_base), _features(bench, aligned, read_aligned)).tolist()
    found: Any = bootstrap_mean(values, f"{protocol.name}/drift", protocol.seed, protocol.confidence)
    measured.aligned = measured.difference = found
    measured.notes = [f"{bench.models.features.dimension} features of {bench.models.network_label}"]
    return measured


def _change(measured: Measured, n: int) -> dict[str, Any] | None:
    """The aligned model's value less the base's, of which nothing more is known."""
    if measured.base is None or measured.aligned is None:
        return None
    change = round(measured.aligned["value"] - measured.base["value"], 6)
    return {"value": change, "low": None, "high": None, "n": n}


def _features(bench: Bench, names: list[str], read: Callable[[], list[Any]]) -> np.ndarray:
    network = bench.models.features
    return bench.portions.get(["features", network.identity, names], lambda: network.features(read())).astype(
        np.float64
    )


def real_statistics(bench: Bench) -> "GaussianStatistics":
    """Statistics of FID's real pictures, from the file or the folder that was given, counted once.

    Raises:
        `NotAtHandError`: where network or pictures were not given.
        `RecipeError`: for a picture that is damaged, and statistics of another network.
    """
    from evaluation.metrics.distance import GaussianStatistics

    if bench.real is None:
        statistics, network = bench.models.statistics, bench.models.features
        if statistics is None:
            statistics = GaussianStatistics(network.dimension, network.identity)
            for hashes, read in over_files(picture_files(bench.models.reference), "features of real pictures"):
                statistics.add(_features(bench, hashes, read))
        bench.real = statistics
    return bench.real


def real_features(bench: Bench) -> "FeatureFile":
    """Features of FID's real pictures, row by row on disk, for KID; counted once.

    Raises:
        `NotAtHandError`: where network or pictures were not given, or the pictures' statistics alone.
        `RecipeError`: for a picture that is damaged.
    """
    if bench.real_rows is None:
        models = bench.models
        models.require_pictures()
        files = over_files(picture_files(models.reference), "features of real pictures")
        bench.real_rows = _on_disk(bench, ["kid", models.features.identity, models.reference_identity], files)
    return bench.real_rows


def _on_disk(
    bench: Bench, parts: list[object], portions: Iterable[tuple[list[str], Callable[[], list[Any]]]]
) -> "FeatureFile":
    """A file of features, filled up with the portions that it does not hold yet."""
    network = bench.models.features
    file = bench.portions.feature_file(parts, network.dimension, network.identity)
    held, seen = file.count, 0
    for names, read in portions:
        # Portions are cut from the whole list, so a file ends where one of them does.
        if seen >= held:
            file.add(_features(bench, names, read))
        seen += len(names)
    return file
