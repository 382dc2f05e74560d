"""Co-Merge and low-rank sums against what the definitions say when they are written out in loops."""

import itertools
import math
import operator
from fractions import Fraction

import pytest
import torch

from training import comerge
from training.low_rank import factor, full, pad, principal, square_root, stack, truncate

OPTIONS = [
    (unit, score, selection, top_n)
    for unit, score, selection in itertools.product(comerge.UNITS, comerge.SCORES, comerge.SELECTIONS)
    for top_n in ([1, 2, 3] if selection == "top_n" else [2])
]


def experts(count=3, rank=2, inputs=5, outputs=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(rank, inputs, generator=generator), torch.randn(outputs, rank, generator=generator))
        for _ in range(count)
    ]


def inputs(count=9, tokens=4, width=5, seed=1):
    return torch.randn(count, tokens, width, generator=torch.Generator().manual_seed(seed))


def co_merge(products, x, unit, score="count", selection="hard", top_n=2):
    products = comerge.prepare(products, unit)
    statistics = comerge.Statistics.of(torch.stack([comerge.activations(product, x, unit) for product in products]))
    return comerge.merge(products, comerge.masks(statistics, score, selection, top_n), unit)


def share(values, selection, top_n):
    """Weights of the experts of one unit, from their scores."""
    if selection == "soft":
        kept = list(range(len(values)))
    else:
        places = 1 if selection == "hard" else top_n
        kept = sorted(range(len(values)), key=lambda k: values[k], reverse=True)[:places]
    total = sum(values[k][0] for k in kept)
    if selection == "hard":
        return {kept[0]: 1.0}
    return {k: values[k][0] / total for k in kept}


def brute_force(products, x, unit, score, selection, top_n):
    """The merged (out, in) matrix, element by element, over full matrices; `x` is of all experts, or a list."""
    seen = [x] * len(products) if isinstance(x, torch.Tensor) else x
    x = seen[0]
    count, tokens = len(products), x.shape[1]
    deltas = [b @ a for a, b in products]
    outputs, width = deltas[0].shape
    rank = products[0][0].shape[0]
    if unit == "rank":
        # Component c of an expert is its c-th singular direction.
        components = []
        for delta in deltas:
            u, s, vh = torch.linalg.svd(delta.double(), full_matrices=False)
            components.append([(s[c] * torch.outer(u[:, c], vh[c])).float() for c in range(rank)])
        units = list(range(rank))
    elif unit == "row":
        units = list(range(outputs))
    else:
        units = list(itertools.product(range(outputs), range(width)))

    def activation(k, n, i):
        total = 0.0
        for t in range(tokens):
            token = seen[k][n, t]
            if unit == "row":
                total += abs(float(deltas[k][i] @ token))
            elif unit == "rank":
                total += float((components[k][i] @ token).norm())
            else:
                total += abs(float(deltas[k][i])) * abs(float(token[i[1]]))
        return total / tokens

    merged = torch.zeros(outputs, width)
    for i in units:
        a = [[activation(k, n, i) for n in range(len(x))] for k in range(count)]
        won = [sum(a[k][n] == max(a[j][n] for j in range(count)) for n in range(len(x))) for k in range(count)]
        mean = [sum(a[k]) / len(x) for k in range(count)]
        values = list(zip(won, mean, strict=True) if score == "count" else zip(mean, won, strict=True))
        for k, weight in share(values, selection, top_n).items():
            if unit == "rank":
                merged += weight * components[k][i]
            else:
                merged[i] += weight * deltas[k][i]
    return merged


@pytest.mark.parametrize(("unit", "score", "selection", "top_n"), OPTIONS)
def test_equals_the_definition_written_out(unit, score, selection, top_n):
    products, x = experts(), inputs()
    merged = full(co_merge(products, x, unit, score, selection, top_n))
    torch.testing.assert_close(merged, brute_force(products, x, unit, score, selection, top_n), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(("unit", "score", "selection", "top_n"), OPTIONS)
def test_one_expert_is_itself(unit, score, selection, top_n):
    products = experts(1)
    merged = full(co_merge(products, inputs(), unit, score, selection, top_n))
    torch.testing.assert_close(merged, full(products[0]), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(("unit", "score", "selection", "top_n"), OPTIONS)
def test_order_of_experts_does_not_matter(unit, score, selection, top_n):
    products, x = experts(4), inputs()
    # A twin and a silent expert make ties.
    products[3] = products[1]
    products.append((torch.zeros(2, 5), torch.zeros(6, 2)))
    straight = full(co_merge(products, x, unit, score, selection, top_n))
    turned = full(co_merge(products[::-1], x, unit, score, selection, top_n))
    torch.testing.assert_close(straight, turned, atol=2e-6, rtol=1e-5)


def test_row_merge_is_one_lora_of_the_stacked_rank_with_every_row_of_one_expert():
    products, x = experts(3), inputs()
    a, b = co_merge(products, x, "row")
    assert a.shape == (6, 5)
    assert b.shape == (6, 6)
    rows = [full(product) for product in products]
    owners = set()
    for i, row in enumerate(b @ a):
        matches = [k for k, rows_k in enumerate(rows) if torch.allclose(row, rows_k[i], atol=1e-6)]
        assert len(matches) == 1
        owners.update(matches)
    assert len(owners) > 1


def test_exact_lora_is_the_masked_sum():
    products = experts(3)
    masks = torch.rand(3, 6, dtype=torch.float64)
    merged = full(comerge.merge(products, masks, "row"))
    expected = sum(masks[k][:, None].float() * full(product) for k, product in enumerate(products))
    torch.testing.assert_close(merged, expected)


def test_a_rank_merge_does_not_depend_on_how_an_expert_is_factored():
    products, x = experts(3), inputs()
    mixing = torch.tensor([[2.0, 1.0], [-1.0, 0.5]])
    written_anew = [(mixing @ a, b @ mixing.inverse()) for a, b in products]
    for one, other in zip(co_merge(products, x, "rank"), co_merge(written_anew, x, "rank"), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_statistics_of_portions_add_up():
    products, x = experts(), inputs()

    def of(part):
        return comerge.Statistics.of(torch.stack([comerge.activations(product, part) for product in products]))

    whole, parts = of(x), of(x[:2]) + of(x[2:3]) + of(x[3:])
    assert torch.equal(whole.wins, parts.wins)
    torch.testing.assert_close(whole.activation, parts.activation)
    assert whole.inputs == parts.inputs == 9
    assert torch.equal(whole.wins.sum(0), torch.full((6,), 9.0, dtype=torch.float64))


def test_ties_are_shared():
    scores = torch.tensor([[[1.0], [2.0]], [[1.0], [0.0]], [[0.5], [2.0]]])
    assert comerge.wins(scores)[:, 0].tolist() == [1.0, 0.5, 0.5]
    silent = comerge.Statistics(torch.zeros(4, 3), torch.zeros(4, 3), 2)
    for selection in comerge.SELECTIONS:
        assert torch.equal(comerge.masks(silent, "mean", selection), torch.full((4, 3), 0.25, dtype=torch.float64))


def written_out_masks(a, score, selection, top_n):
    """The shares of the experts of one unit from their activations, lists (experts, inputs), in exact fractions."""
    count, inputs = len(a), len(a[0])
    won = [Fraction(0)] * count
    for n in range(inputs):
        winners = [k for k in range(count) if a[k][n] == max(a[j][n] for j in range(count))]
        for k in winners:
            won[k] += Fraction(1, len(winners))
    mean = [Fraction(sum(a[k]), inputs) for k in range(count)]
    values = list(zip(won, mean, strict=True) if score == "count" else zip(mean, won, strict=True))
    weights = []
    for k in range(count):
        ahead, tied = (sum(how(other, values[k]) for other in values) for how in (operator.gt, operator.eq))
        places = {"hard": 1, "soft": count, "top_n": top_n}[selection]
        share = min(max(Fraction(places - ahead, tied), Fraction(0)), Fraction(1))
        weights.append((share, share * (1 if selection == "hard" else values[k][0])))
    total = sum(weight for _, weight in weights)
    places = sum(share for share, _ in weights)
    return [float(weight / total if total else share / places) for share, weight in weights]


@pytest.mark.parametrize("count", [1, 3, 5, 7])
@pytest.mark.parametrize("portions", [False, True])
def test_ties_are_broken_and_shared_as_written_out_in_fractions(count, portions):
    """Activations of few values, so that wins are shared by thirds and sevenths and their sums are often equal."""
    generator = torch.Generator().manual_seed(count)
    for size in (2, 5, 9, 21):
        for most in (2, 3):
            scores = torch.randint(0, most, (count, size, 12), generator=generator).float()
            cuts = scores.split(1 if portions else size, dim=1)
            statistics = [comerge.Statistics.of(part) for part in cuts]
            sums = sum(statistics[1:], statistics[0])
            for score, selection, top_n in itertools.product(comerge.SCORES, comerge.SELECTIONS, (1, 2, 9)):
                found = comerge.masks(sums, score, selection, top_n)
                for unit in range(12):
                    activations = scores[:, :, unit].int().tolist()
                    expected = written_out_masks(activations, score, selection, top_n)
                    assert found[:, unit].tolist() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("wrong", [{"score": "loudest"}, {"selection": "softer"}, {"top_n": 0}])
def test_wrong_options_are_named(wrong):
    statistics = comerge.Statistics.of(torch.ones(2, 3, 4))
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        comerge.masks(statistics, **wrong)
    with pytest.raises(ValueError, match="unit is 'column'"):
        comerge.activations(experts(1)[0], inputs(), "column")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_truncation_through_qr_equals_the_full_svd(rank, weighted):
    product = stack(experts(4, inputs=12, outputs=9))
    x = torch.randn(40, 12, dtype=torch.float64) * torch.linspace(0.1, 3, 12, dtype=torch.float64)
    root = square_root(x.T @ x / 40) if weighted else torch.eye(12, dtype=torch.float64)
    a, b = truncate(product, rank, x.T @ x / 40 if weighted else None)
    u, s, vh = torch.linalg.svd(full(product).double() @ root)
    expected = (u[:, :rank] * s[:rank]) @ vh[:rank] @ root.inverse()
    assert a.shape == (rank, 12)
    torch.testing.assert_close((b @ a).double(), expected, atol=1e-4, rtol=1e-4)
    lost = ((full(product).double() - (b @ a).double()) @ root).norm()
    assert math.isclose(float(lost), float(s[rank:].norm()), rel_tol=1e-4)


def test_truncation_reads_nothing_of_the_gram_but_its_projection():
    a, b = stack(experts(4, inputs=12, outputs=9))
    x = torch.randn(40, 12, dtype=torch.float64)
    gram = x.T @ x
    projected = a.double() @ gram @ a.double().T
    for one, other in zip(truncate((a, b), 3, gram), truncate((a, b), 3, projected=projected), strict=True):
        assert torch.equal(one, other)


def test_truncation_may_meet_a_singular_gram():
    product = stack(experts(4, inputs=12, outputs=9))
    x = torch.randn(3, 12, dtype=torch.float64)
    # Three inputs span three directions, so rank 3 keeps every output on them.
    kept = full(truncate(product, 3, x.T @ x)).double()
    torch.testing.assert_close(kept @ x.T, full(product).double() @ x.T, atol=1e-4, rtol=1e-4)


def test_truncation_leaves_low_ranks_alone_and_refuses_rank_0():
    product = experts(1)[0]
    assert truncate(product, None) is product
    assert truncate(product, 2) is product
    with pytest.raises(ValueError, match="at least 1"):
        truncate(product, 0)
    with pytest.raises(ValueError, match="cannot be padded"):
        pad(product, 1)


def test_factors_of_a_matrix_and_principal_factors_give_it_back():
    matrix = torch.randn(6, 9)
    torch.testing.assert_close(full(factor(matrix)), matrix, atol=1e-5, rtol=1e-5)
    assert factor(matrix, 2)[0].shape == (2, 9)
    product = stack(experts(2))
    a, b = principal(product)
    torch.testing.assert_close(b @ a, full(product), atol=1e-5, rtol=1e-5)
    strengths = a.norm(dim=1) * b.norm(dim=0)
    assert (strengths[:-1] >= strengths[1:] - 1e-5).all()
    zero = truncate((torch.zeros(3, 5), torch.zeros(6, 3)), 2)
    assert torch.equal(full(zero), torch.zeros(6, 5))
