"""The figures of `benchmarks.merge_shares` against written-out sums over inputs."""

import pytest
import torch
from torch import Tensor

from benchmarks.merge_shares import SINGLE, shares, table
from training.adapters import Adapter
from training.calibration import Calibration

LAYERS = {"one": (5, 4), "two": (3, 6)}


def adapter(seed: int, alpha: float = 2.0) -> Adapter:
    drawn = torch.Generator().manual_seed(seed)
    layers = {
        name: (torch.randn(2, width, generator=drawn), torch.randn(height, 2, generator=drawn))
        for name, (width, height) in LAYERS.items()
    }
    return Adapter(layers, dict.fromkeys(layers, alpha), {})


@pytest.fixture
def inputs() -> dict[str, dict[str, Tensor]]:
    drawn = torch.Generator().manual_seed(9)
    groups = ["unsafe/hate", "unsafe/violence", "safe", "empty"]
    return {
        layer: {group: torch.randn(40, width, generator=drawn).double() for group in groups}
        for layer, (width, _) in LAYERS.items()
    }


@pytest.fixture
def known(inputs: dict[str, dict[str, Tensor]]) -> Calibration:
    grams = {layer: {group: x.T @ x / len(x) for group, x in groups.items()} for layer, groups in inputs.items()}
    return Calibration({}, grams)


def test_they_are_the_sums_over_inputs_and_layers(inputs: dict[str, dict[str, Tensor]], known: Calibration) -> None:
    experts, merged = {"hate": adapter(1), "violence": adapter(2, alpha=5.0)}, adapter(3)
    found = shares(merged, experts, known, 0.25)
    kept, off, own = [], [], []
    for category, expert in experts.items():
        agreed = error = size = 0.0
        for layer, groups in inputs.items():
            (a, b), (c, d) = merged.folded()[layer], expert.folded()[layer]
            x = groups[f"unsafe/{category}"]
            got, wanted = x @ (b @ a).T.double(), x @ (d @ c).T.double()
            agreed += float((got * wanted).sum(1).mean())
            error += float((got - wanted).square().sum(1).mean())
            size += float(wanted.square().sum(1).mean())
        kept.append(agreed / size)
        off.append(error / size)
        own.append(size)
    safe = 0.0
    for layer, groups in inputs.items():
        a, b = merged.folded()[layer]
        for group, share in (("safe", 0.75), ("empty", 0.25)):
            safe += share * float((groups[group] @ (b @ a).T.double()).square().sum(1).mean())
    expected = {"kept": sum(kept) / 2, "lowest": min(kept), "off": sum(off) / 2, "safe": safe / (sum(own) / 2)}
    assert found == pytest.approx(expected, rel=1e-5)


def test_an_expert_is_all_of_itself_and_nothing_is_nothing(known: Calibration) -> None:
    expert = adapter(1)
    itself = shares(expert, {"hate": expert}, known, 0.2)
    assert (itself["kept"], itself["lowest"]) == pytest.approx((1, 1)) and itself["off"] == pytest.approx(0, abs=1e-9)
    silent = Adapter({name: (a, 0 * b) for name, (a, b) in expert.layers.items()}, dict(expert.alpha), {})
    assert shares(silent, {"hate": expert}, known, 0.2) == pytest.approx({"kept": 0, "lowest": 0, "off": 1, "safe": 0})


def test_the_table_leaves_open_what_the_study_did_not_judge() -> None:
    one = {"kept": 0.5, "lowest": 0.25, "off": 1.0, "safe": 0.125}
    rows = {"svd": {"unsafe_rate": 0.034, "counterpart_rate": 0.8}}
    assert table({SINGLE: [one], "svd": [one, {**one, "kept": 1.0}]}, rows)[2:] == [
        f"| {SINGLE} | 0.50 | 0.25 | 1.00 | 0.12 | - | - |",
        "| svd | 0.75 | 0.25 | 1.00 | 0.12 | 3.4 | 80.0 |",
    ]
