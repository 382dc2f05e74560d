"""The constrained merge against its conditions and against a generic solver of constrained problems."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from tests.training.test_least_squares import apart, gram, world
from training import constrained as module
from training.constrained import constrained
from training.least_squares import CATEGORY_WEIGHTS, energy, kept, least_squares
from training.low_rank import full


def seen_by(world_of):
    """Experts, Gram matrices and the safe one."""
    products, inputs, safe = world_of
    return products, [gram(x) for x in inputs], gram(safe)


def cost(merged, total):
    return float((merged @ total @ merged.T).trace())


@pytest.mark.parametrize("how", CATEGORY_WEIGHTS)
@pytest.mark.parametrize("safe_weight", [0.0, 6.0, 100.0])
def test_every_expert_keeps_exactly_its_share(how, safe_weight):
    products, grams, safe = seen_by(world())
    merged, total = constrained(products, grams, safe, safe_weight=safe_weight, category_weight=how)
    assert kept(merged, products, grams) == pytest.approx([1, 1, 1], abs=1e-10)
    assert merged[0].shape == (6, 6)
    # What scaling each part of least squares up by its own share cannot do where categories meet.
    by_least_squares, metric = least_squares(products, grams, safe, safe_weight=safe_weight, category_weight=how)
    assert torch.equal(total, metric)
    if safe_weight:
        assert max(abs(1 - share) for share in kept(by_least_squares, products, grams)) > 1e-3


def test_float32_experts_keep_their_shares_to_its_rounding():
    products, grams, safe = seen_by(world())
    merged, _ = constrained([(a.float(), b.float()) for a, b in products], grams, safe)
    assert merged[0].dtype == merged[1].dtype == torch.float32
    assert kept(merged, products, grams) == pytest.approx([1, 1, 1], abs=1e-5)


def test_equals_a_generic_solver():
    products, grams, safe = seen_by(world(count=2, width=4, outputs=3))
    merged, total = constrained(products, grams, safe, safe_weight=2.0, ridge=1e-3)

    def value(w):
        w = w.reshape(3, 4)
        return float(np.trace(w @ total.numpy() @ w.T))

    conditions = [
        {"type": "eq", "fun": lambda w, u=full(p).numpy(), g=g.numpy(): np.trace((w.reshape(3, 4) - u) @ g @ u.T)}
        for p, g in zip(products, grams, strict=True)
    ]
    found = minimize(value, np.zeros(12), constraints=conditions, method="SLSQP", options={"ftol": 1e-14})
    assert found.success
    torch.testing.assert_close(full(merged), torch.from_numpy(found.x).reshape(3, 4), atol=1e-5, rtol=1e-5)


def test_any_change_that_the_conditions_allow_costs_more():
    products, grams, safe = seen_by(world())
    merged, total = constrained(products, grams, safe)
    rows = torch.stack([(full(p) @ g).flatten() for p, g in zip(products, grams, strict=True)])
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        change = torch.randn(30, generator=generator, dtype=torch.float64)
        change = (change - torch.linalg.pinv(rows) @ (rows @ change)).reshape(5, 6)
        assert cost(full(merged) + 1e-2 * change, total) > cost(full(merged), total)


@pytest.mark.parametrize("safe_weight", [0.0, 1.0, 100.0])
def test_one_expert_is_itself_where_safe_inputs_are_like_its_own_and_least_squares_scaled_up_everywhere(safe_weight):
    products, grams, safe = seen_by(world(1))
    alike, _ = constrained(products, grams, 0.3 * grams[0], safe_weight=safe_weight, ridge=1e-12)
    torch.testing.assert_close(full(alike), full(products[0]), atol=1e-8, rtol=1e-8)
    other, _ = constrained(products, grams, safe, safe_weight=safe_weight)
    assert (safe_weight == 0) == torch.allclose(full(other), full(products[0]), atol=1e-2)
    for restore in ("all", "category"):
        options = {"safe_weight": min(safe_weight, 1.0), "restore": restore}
        expected, _ = least_squares(products, grams, safe, **options)
        merged, _ = constrained(products, grams, safe, safe_weight=options["safe_weight"])
        torch.testing.assert_close(full(merged), full(expected), atol=1e-10, rtol=1e-10)


def test_categories_that_do_not_meet_give_least_squares_restored_by_category():
    products, inputs, _ = world()
    grams = [gram(x) for x in apart(inputs)]
    safe = torch.diag(torch.arange(1.0, 7.0, dtype=torch.float64))
    merged, _ = constrained(products, grams, safe, safe_weight=1.0)
    expected, _ = least_squares(products, grams, safe, safe_weight=1.0, restore="category")
    torch.testing.assert_close(full(merged), full(expected), atol=1e-9, rtol=1e-9)


def test_experts_that_keep_the_same_share_give_least_squares_restored_for_all():
    products, grams, _ = seen_by(world(1))
    (a, b), turn = products[0], torch.eye(6, dtype=torch.float64)[[3, 4, 5, 0, 1, 2]]
    # The second category is the first with its inputs turned around, and safe inputs are the same both ways.
    twins, both = [(a, b), (a @ turn, b)], [grams[0], turn.T @ grams[0] @ turn]
    safe = torch.eye(6, dtype=torch.float64)
    expected, _ = least_squares(twins, both, safe, safe_weight=1.0, restore="all")
    merged, _ = constrained(twins, both, safe, safe_weight=1.0)
    torch.testing.assert_close(full(merged), full(expected), atol=1e-9, rtol=1e-9)


def test_order_of_experts_does_not_matter():
    products, grams, safe = seen_by(world(4))
    straight, _ = constrained(products, grams, safe)
    turned, _ = constrained(products[::-1], grams[::-1], safe)
    torch.testing.assert_close(full(straight), full(turned), atol=1e-10, rtol=1e-10)


def test_an_expert_that_does_nothing_changes_nothing():
    products, grams, safe = seen_by(world())
    silent = (torch.zeros(2, 6, dtype=torch.float64), products[0][1])
    # Nothing on its own inputs, though it is not zero.
    elsewhere = (torch.eye(6, dtype=torch.float64)[:2], products[0][1])
    unseen = torch.diag(torch.tensor([0.0, 0, 1, 1, 1, 1], dtype=torch.float64))
    # With equal weights only the penalty knows of the further categories: their Gram matrices go to the safe side.
    options = {"category_weight": "equal", "safe_weight": 1.0}
    expected, _ = constrained(products, grams, safe + unseen, **options)
    for idle in (silent, elsewhere):
        merged, _ = constrained([*products, idle], [*grams, unseen], safe, **options)
        torch.testing.assert_close(full(merged), full(expected), atol=1e-10, rtol=1e-10)
        assert not merged[0][-2:].any()


def test_equal_experts_share_their_condition():
    products, grams, safe = seen_by(world())
    merged, _ = constrained([*products, products[0]], [*grams, grams[0]], safe, category_weight="equal")
    assert kept(merged, products, grams) == pytest.approx([1, 1, 1], abs=1e-9)
    torch.testing.assert_close(merged[0][:2], merged[0][-2:], rtol=1e-6, atol=1e-9)


def opposed(distance):
    """An expert, and nearly its opposite on the same inputs."""
    products, grams, safe = seen_by(world(2))
    a, b = products[0]
    return [(a, b), (-a, b + distance * products[1][1])], [grams[0]] * 2, safe


@pytest.mark.parametrize("distance", [0.0, 1e-9, 1e-3])
def test_experts_that_contradict_each_other_are_bounded(distance):
    products, grams, safe = opposed(distance)
    merged, total = constrained(products, grams, safe)
    for k, (product, g) in enumerate(zip(products, grams, strict=True)):
        part = merged[1][:, 2 * k : 2 * k + 2] @ merged[0][2 * k : 2 * k + 2]
        alone = full(product) @ g @ torch.linalg.inv(total)
        alone = alone * energy(product, g) / float((alone @ g @ full(product).T).trace())
        assert cost(part, total) <= (10 * (1 + 1e-9)) ** 2 * cost(alone, total)
        assert cost(alone, total) <= cost(full(product), total)


def test_exact_opposites_give_no_merge_and_others_are_met():
    # Nothing serves both: the merge of exact opposites is none at all, and the shares say so.
    products, grams, safe = opposed(0.0)
    merged, _ = constrained(products, grams, safe)
    assert float(full(merged).norm()) < 1e-6 * float(full(products[0]).norm())
    # Far enough apart both conditions are met.
    products, grams, safe = opposed(2.0)
    assert kept(constrained(products, grams, safe)[0], products, grams) == pytest.approx([1, 1], abs=1e-9)


def test_bounds_of_many_contradicting_experts_are_worked_out_or_it_is_said(monkeypatch):
    """Ten experts, nearly each other's opposites; the library gives up after ten iterations."""
    generator = torch.Generator().manual_seed(197)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def share():
        return float(torch.rand(1, generator=generator))

    base = [(drawn(2, 6), drawn(5, 2)) for _ in range(2)]
    products = []
    for k in range(10):
        a, b = base[k % 2]
        sign = 1 if share() < 0.5 else -1
        products.append((sign * a, b + 10 ** (-3 * share()) * drawn(5, 2)))
    x, unit = drawn(40, 6), torch.eye(6, dtype=torch.float64)
    grams = [x.T @ x / 40 + 0.01 * share() * unit for _ in range(10)]
    said = []
    monkeypatch.setattr(module.logger, "warning", said.append)
    merged, _ = constrained(products, grams, 0.1 * unit)
    assert not said
    monkeypatch.setattr(module, "_ITERATIONS", 10)
    unsettled, _ = constrained(products, grams, 0.1 * unit)
    assert len(said) == 1 and "the shares of 10 experts are not settled after 10 iterations" in said[0]
    assert not torch.allclose(full(merged), full(unsettled), rtol=1e-3)


@pytest.mark.parametrize("wrong", [{"ridge": 0.0}, {"safe_weight": -1.0}, {"category_weight": "loud"}])
def test_wrong_options_are_named(wrong):
    products, grams, safe = seen_by(world())
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        constrained(products, grams, safe, **wrong)


def test_inputs_that_are_all_zero_give_no_update():
    products, _, _ = world()
    merged, _ = constrained(products, [torch.zeros(6, 6)] * 3, torch.zeros(6, 6))
    assert torch.equal(full(merged), torch.zeros(5, 6, dtype=torch.float64))
