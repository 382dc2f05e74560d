"""The subspace merge against a filter written out direction by direction, and against the least squares it contains."""

import math

import pytest
import torch

from tests.training.test_least_squares import apart, gram, world
from training.least_squares import RESTORES, category_weights, kept, least_squares
from training.low_rank import full
from training.subspace import subspace

PLAIN = {"category_weight": "equal", "restore": "none"}


def written_out(products, grams, safe, safe_weight, others_weight, sharpness, strength, weights):
    """The merged matrix: every expert's update, one generalised eigenvector of its inputs after the other."""
    merged = torch.zeros(5, 6, dtype=torch.float64)
    for k, product in enumerate(products):
        own = weights[k] * grams[k]
        foreign = safe_weight * safe + strength * torch.eye(6, dtype=torch.float64)
        for j, other in enumerate(grams):
            if j != k:
                foreign = foreign + others_weight * weights[j] * other
        # own v = m foreign v has the eigenvectors of foreign^-1 own.
        values, vectors = torch.linalg.eig(torch.linalg.inv(foreign) @ own)
        for i in range(6):
            m, v = float(values[i].real), vectors[:, i].real
            v = v / math.sqrt(float(v @ foreign @ v))
            share = m**sharpness / (1 + m**sharpness)
            # v^T x measures direction i, and foreign v is the input that only it answers to.
            merged += share * torch.outer(full(product) @ foreign @ v, v)
    return merged


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.0, 7.0])
@pytest.mark.parametrize("others_weight", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("how", ["equal", "energy"])
def test_equals_the_filter_written_out(sharpness, others_weight, how):
    products, inputs, safe = world()
    grams = [gram(x) for x in inputs]
    merged, total = subspace(
        products,
        grams,
        gram(safe),
        safe_weight=2.0,
        others_weight=others_weight,
        sharpness=sharpness,
        ridge=1e-3,
        category_weight=how,
        restore="none",
    )
    weights = category_weights(products, grams, how)
    strength = float(total.trace()) / 6 * 1e-3 / (1 + 1e-3)
    expected = written_out(products, grams, gram(safe), 2.0, others_weight, sharpness, strength, weights)
    torch.testing.assert_close(full(merged), expected, atol=1e-9, rtol=1e-9)
    assert merged[0].shape == (6, 6)


@pytest.mark.parametrize("restore", RESTORES)
@pytest.mark.parametrize("how", ["equal", "trace", "energy"])
def test_with_sharpness_1_it_is_least_squares(restore, how):
    products, inputs, safe = world()
    grams = [gram(x) for x in inputs]
    options = {"safe_weight": 2.0, "ridge": 1e-3, "category_weight": how, "restore": restore}
    merged, total = subspace(products, grams, gram(safe), sharpness=1.0, **options)
    expected, metric = least_squares(products, grams, gram(safe), **options)
    torch.testing.assert_close(full(merged), full(expected), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(total, metric)


def test_no_other_update_of_an_expert_has_a_lower_objective():
    """Sharpness 1 solves each expert's own problem for any weight of the others."""
    products, inputs, safe = world()
    grams = [gram(x) for x in inputs]
    own, rest = products[:1], [torch.zeros_like(part) for part in products[1]]
    alone = [own[0], *[tuple(rest)] * 2]
    merged, total = subspace(alone, grams, gram(safe), others_weight=3.0, sharpness=1.0, ridge=1e-3, **PLAIN)
    strength = float(total.trace()) / 6 * 1e-3 / (1 + 1e-3)
    best = full(merged).requires_grad_()
    value = (inputs[0] @ (best - full(own[0])).T).square().sum(1).mean() + strength * best.square().sum()
    value = value + 6.0 * (safe @ best.T).square().sum(1).mean()
    for x in inputs[1:]:
        value = value + 3.0 * (x @ best.T).square().sum(1).mean()
    (gradient,) = torch.autograd.grad(value, best)
    assert gradient.abs().max() < 1e-10 * value.abs()


@pytest.mark.parametrize("sharpness", [1.0, 2.0, 50.0])
def test_experts_with_inputs_of_their_own_are_reproduced(sharpness):
    products, inputs, _ = world()
    masked = apart(inputs)
    grams = [gram(x) for x in masked]
    merged, _ = subspace(products, grams, torch.zeros(6, 6), sharpness=sharpness, ridge=1e-12)
    for product, x in zip(products, masked, strict=True):
        torch.testing.assert_close(x @ full(merged).T, x @ full(product).T, atol=1e-8, rtol=1e-8)


def test_a_sharp_filter_keeps_whole_directions_and_drops_the_others():
    """Three directions that are mostly the expert's, three that are mostly safe prompts'."""
    products, _, _ = world(1)
    own = torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    safe = torch.diag(torch.tensor([1.0, 1.0, 1.0, 4.0, 4.0, 4.0], dtype=torch.float64))
    options = {"safe_weight": 1.0, "ridge": 1e-12, **PLAIN}
    soft = full(subspace(products, [own], safe, sharpness=1.0, **options)[0])
    sharp = full(subspace(products, [own], safe, sharpness=60.0, **options)[0])
    expert = full(products[0])
    torch.testing.assert_close(soft[:, :3], 0.8 * expert[:, :3])
    torch.testing.assert_close(soft[:, 3:], 0.2 * expert[:, 3:])
    torch.testing.assert_close(sharp[:, :3], expert[:, :3])
    assert sharp[:, 3:].abs().max() < 1e-12


def test_one_expert_is_itself_without_safe_inputs():
    products, inputs, _ = world(1)
    merged, _ = subspace(products, [gram(inputs[0])], torch.zeros(6, 6), safe_weight=0.0, ridge=1e-12)
    torch.testing.assert_close(full(merged), full(products[0]), atol=1e-8, rtol=1e-8)


def test_the_order_of_experts_does_not_matter():
    products, inputs, safe = world()
    grams = [gram(x) for x in inputs]
    straight, _ = subspace(products, grams, gram(safe))
    turned, _ = subspace(products[::-1], grams[::-1], gram(safe))
    torch.testing.assert_close(full(straight), full(turned), atol=1e-10, rtol=1e-10)


def test_other_categories_are_answered_with_less_as_their_weight_grows():
    products, inputs, safe = world()
    grams = [gram(x) for x in inputs]
    alone = [products[0], *[tuple(torch.zeros_like(part) for part in products[1])] * 2]
    loud = []
    for weight in (0.0, 1.0, 10.0, 1e4):
        merged, _ = subspace(alone, grams, gram(safe), others_weight=weight, **PLAIN)
        loud.append(float(torch.cat([x @ full(merged).T for x in inputs[1:]]).square().sum()))
    assert loud == sorted(loud, reverse=True)
    assert loud[-1] < 1e-4 * loud[0]


def test_what_is_lost_is_restored():
    products, inputs, safe = world()
    masked = apart(inputs)
    grams = [gram(x) for x in masked]
    merged, _ = subspace(products, grams, gram(safe) / 20, restore="category")
    plain, _ = subspace(products, grams, gram(safe) / 20, restore="none")
    assert min(kept(plain, products, grams)) < 0.99
    assert all(
        abs(1 - new) < abs(1 - old)
        for new, old in zip(kept(merged, products, grams), kept(plain, products, grams), strict=True)
    )


def test_inputs_that_are_all_zero_give_no_update():
    products, _, _ = world()
    merged, _ = subspace(products, [torch.zeros(6, 6)] * 3, torch.zeros(6, 6))
    assert torch.equal(full(merged), torch.zeros(5, 6, dtype=torch.float64))


@pytest.mark.parametrize(
    "wrong",
    [{"ridge": 0.0}, {"safe_weight": -1.0}, {"others_weight": -1.0}, {"sharpness": 0.0}, {"restore": "most"}],
)
def test_wrong_options_are_named(wrong):
    products, inputs, safe = world()
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        subspace(products, [gram(x) for x in inputs], gram(safe), **wrong)
