"""The least-squares merge against the normal equations and the objective it is derived from."""

import pytest
import torch

from training.least_squares import CATEGORY_WEIGHTS, RESTORES, category_weights, energy, kept, least_squares
from training.low_rank import full, truncate


def world(count=3, rank=2, width=6, outputs=5, samples=40):
    generator = torch.Generator().manual_seed(0)
    products = [
        (
            torch.randn(rank, width, generator=generator, dtype=torch.float64),
            torch.randn(outputs, rank, generator=generator, dtype=torch.float64),
        )
        for _ in range(count)
    ]
    inputs = [(k + 1) * torch.randn(samples, width, generator=generator, dtype=torch.float64) for k in range(count)]
    return products, inputs, torch.randn(samples, width, generator=generator, dtype=torch.float64)


def gram(x):
    return x.T @ x / len(x)


def objective(merged, products, inputs, safe, safe_weight, weights, strength):
    value = safe_weight * (safe @ merged.T).square().sum(1).mean() + strength * merged.square().sum()
    for product, x, weight in zip(products, inputs, weights, strict=True):
        value = value + weight * (x @ (merged - full(product)).T).square().sum(1).mean()
    return value


@pytest.mark.parametrize("how", CATEGORY_WEIGHTS)
def test_solves_the_normal_equations(how):
    products, inputs, safe = world()
    grams = [gram(x) for x in inputs]
    options = {"safe_weight": 2.0, "ridge": 1e-3, "category_weight": how, "restore": "none"}
    merged, total = least_squares(products, grams, gram(safe), **options)
    weights = category_weights(products, grams, how)
    plain = sum(weight * g for weight, g in zip(weights, grams, strict=True)) + 2.0 * gram(safe)
    strength = 1e-3 * plain.trace() / 6
    right = sum(weight * full(p) @ g for weight, p, g in zip(weights, products, grams, strict=True))
    metric = plain + strength * torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(full(merged), torch.linalg.lstsq(metric, right.T).solution.T)
    torch.testing.assert_close(total, metric)
    assert merged[0].shape == (6, 6)


PLAIN = {"category_weight": "equal", "restore": "none"}


def test_no_other_update_has_a_lower_objective():
    products, inputs, safe = world()
    grams = [gram(x) for x in inputs]
    merged, total = least_squares(products, grams, gram(safe), safe_weight=2.0, ridge=1e-3, **PLAIN)
    strength = float(total.trace() / 6 * 1e-3 / (1 + 1e-3))
    best = full(merged).requires_grad_()
    value = objective(best, products, inputs, safe, 2.0, [1.0] * 3, strength)
    (gradient,) = torch.autograd.grad(value, best)
    assert gradient.abs().max() < 1e-10 * value.abs()


def test_weighted_truncation_is_the_best_merge_of_its_rank():
    products, inputs, safe = world()
    grams = [gram(x) for x in inputs]
    merged, total = least_squares(products, grams, gram(safe), safe_weight=2.0, ridge=1e-3, **PLAIN)
    a, b = (part.clone().requires_grad_() for part in truncate(merged, 2, total))
    strength = float(total.trace() / 6 * 1e-3 / (1 + 1e-3))
    value = objective(b @ a, products, inputs, safe, 2.0, [1.0] * 3, strength)
    for gradient in torch.autograd.grad(value, (a, b)):
        assert gradient.abs().max() < 1e-8 * value.abs()
    plain = full(truncate(merged, 2))
    assert value < objective(plain, products, inputs, safe, 2.0, [1.0] * 3, strength)


def apart(inputs):
    """The inputs of each category cut to two directions of their own."""
    return [x * torch.eye(6, dtype=torch.float64)[2 * k : 2 * k + 2].sum(0) for k, x in enumerate(inputs)]


@pytest.mark.parametrize("how", CATEGORY_WEIGHTS)
@pytest.mark.parametrize("restore", RESTORES)
def test_experts_with_inputs_of_their_own_are_reproduced(how, restore):
    products, inputs, _ = world()
    masked = apart(inputs)
    options = {"safe_weight": 0.0, "ridge": 1e-12, "category_weight": how, "restore": restore}
    merged, _ = least_squares(products, [gram(x) for x in masked], torch.zeros(6, 6), **options)
    for product, x in zip(products, masked, strict=True):
        torch.testing.assert_close(x @ full(merged).T, x @ full(product).T, atol=1e-8, rtol=1e-8)


def test_what_safe_inputs_take_is_restored():
    products, inputs, safe = world()

    def shares(restore, inputs):
        grams = [gram(x) for x in inputs]
        merged, _ = least_squares(products, grams, gram(safe), safe_weight=1.0, restore=restore)
        return kept(merged, products, grams)

    plain, over_all = shares("none", inputs), shares("all", inputs)
    assert max(plain) < 0.9
    assert sum(over_all) / 3 == pytest.approx(1)
    assert [share / over_all[0] for share in over_all] == pytest.approx([share / plain[0] for share in plain])
    # Nearer to 1 in every category; exactly there where categories do not meet.
    assert all(abs(1 - new) < abs(1 - old) for new, old in zip(shares("category", inputs), plain, strict=True))
    safe = torch.diag(torch.arange(1.0, 7.0, dtype=torch.float64))
    assert max(shares("none", apart(inputs))) < 0.99
    assert shares("category", apart(inputs)) == pytest.approx([1, 1, 1])


def test_one_expert_is_itself_without_safe_inputs():
    products, inputs, _ = world(1)
    merged, _ = least_squares(products, [gram(inputs[0])], torch.zeros(6, 6), safe_weight=0.0, ridge=1e-12)
    torch.testing.assert_close(full(merged), full(products[0]), atol=1e-8, rtol=1e-8)


def test_safe_inputs_are_answered_with_nothing_as_their_weight_grows():
    products, inputs, safe = world()
    # Safe inputs use four of the six directions.
    safe[:, 4:] = 0
    grams = [gram(x) for x in inputs]
    sizes = [
        float(
            (safe @ full(least_squares(products, grams, gram(safe), safe_weight=w, ridge=1e-14, **PLAIN)[0]).T).norm()
        )
        for w in (0.0, 1.0, 100.0, 1e6)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 1e-4 * sizes[0]
    left, _ = least_squares(products, grams, gram(safe), safe_weight=1e6, ridge=1e-14, **PLAIN)
    assert full(left)[:, 4:].norm() > 0.1


def test_category_weights_even_out_what_they_name():
    products, inputs, _ = world()
    grams = [gram(x) for x in inputs]
    assert category_weights(products, grams, "equal") == [1.0, 1.0, 1.0]
    traces = [w * float(g.trace()) for w, g in zip(category_weights(products, grams, "trace"), grams, strict=True)]
    weights = category_weights(products, grams, "energy")
    energies = [w * energy(p, g) for w, p, g in zip(weights, products, grams, strict=True)]
    assert max(traces) / min(traces) == pytest.approx(1)
    assert max(energies) / min(energies) == pytest.approx(1)
    assert sum(weights) == pytest.approx(3)
    x = inputs[0]
    assert energy(products[0], grams[0]) == pytest.approx(float((x @ full(products[0]).T).square().sum(1).mean()))


@pytest.mark.parametrize(
    "wrong", [{"ridge": 0.0}, {"safe_weight": -1.0}, {"category_weight": "loud"}, {"restore": "most"}]
)
def test_wrong_options_are_named(wrong):
    products, inputs, safe = world()
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        least_squares(products, [gram(x) for x in inputs], gram(safe), **wrong)


def test_inputs_that_are_all_zero_give_no_update():
    products, _, _ = world()
    merged, _ = least_squares(products, [torch.zeros(6, 6)] * 3, torch.zeros(6, 6))
    assert torch.equal(full(merged), torch.zeros(5, 6, dtype=torch.float64))


@pytest.mark.parametrize("count", [1, 4, 12])
@pytest.mark.parametrize("how", CATEGORY_WEIGHTS)
def test_a_layer_that_no_expert_moved_gets_no_update(count, how):
    products, inputs, safe = world(count)
    products = [(a, torch.zeros_like(b)) for a, b in products]
    for grams in ([gram(x) for x in inputs], [torch.zeros(6, 6)] * count):
        merged, _ = least_squares(products, grams, gram(safe), category_weight=how)
        assert full(merged).eq(0).all()
        assert sum(category_weights(products, grams, how)) == pytest.approx(count)


@pytest.mark.parametrize("how", ["trace", "energy"])
@pytest.mark.parametrize("restore", RESTORES)
@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-3])
def test_an_expert_that_is_all_but_empty_takes_nothing_from_the_others(how, restore, size):
    products, inputs, safe = world()
    options = {"safe_weight": 1.0, "category_weight": how, "restore": restore}
    alone, _ = least_squares(products[:2], [gram(x) for x in inputs[:2]], gram(safe), **options)
    if how == "energy":
        products[2] = (products[2][0], size * products[2][1])
    else:
        inputs[2] = size * inputs[2]
    merged, _ = least_squares(products, [gram(x) for x in inputs], gram(safe), **options)
    # Beside it the others count half as much again, as weights have the mean 1: safe inputs pull them a little less.
    before, after = (kept(m, products[:2], [gram(x) for x in inputs[:2]]) for m in (alone, merged))
    assert after == pytest.approx(before, abs=0.2), (before, after)


def test_weights_fade_below_a_share_of_the_largest_and_nowhere_else():
    (product,) = world(1)[0]
    sizes = [1.0, 0.5, 0.031, 0.03, 0.0299, 0.003, 1e-9, 0.0]
    grams = [size * torch.eye(6, dtype=torch.float64) for size in sizes]
    for how in ("trace", "energy"):
        weights = category_weights([product] * len(sizes), grams, how)
        assert sum(weights) == pytest.approx(len(sizes))
        relative = [weight / weights[0] for weight in weights]
        assert relative[:4] == pytest.approx([1, 2, 1 / 0.031, 1 / 0.03])
        assert relative[4:] == pytest.approx([0.0299 / 0.03**2, 0.003 / 0.03**2, 1e-9 / 0.03**2, 0])
    # No expert is faint: exactly the inverse.
    plain = category_weights([product] * 3, grams[:3], "trace")
    inverse = [1 / float(g.trace()) for g in grams[:3]]
    assert plain == [weight * 3 / sum(inverse) for weight in inverse]
