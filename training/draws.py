"""What each training step sees: which pairs, prompts, timesteps and noise, each a function of (seed, number) alone.

No global random state is read, so a resumed run, another batch size with the same product, or another number of
processes sees the same draws. Tensors come from the cache; nothing is computed with the model here."""

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from training.config import DiffusionDPOConfig
from training.pairs import Pair, Picture

if TYPE_CHECKING:
    from training.reference import ReferenceCache

_PROBES = 32

Draw = tuple[Any, ...]
"""One picture of a batch: its moments, prompt, timestep, noise, the noise that samples its latents, and its hash."""


class Encoded(Protocol):
    """What the encoders say about pictures and prompts, as `cache.EncodedPairs` keeps it for all pairs."""

    def moments(self, image: str) -> Tensor:
        """Moments of a picture by its hash."""

    def image_conditioning(self, image: str) -> dict[str, Tensor]:
        """What the network is told of a picture besides its prompt."""

    def prompt(self, prompt: str) -> dict[str, Tensor]:
        """Conditioning of one prompt."""


def seed_of(*parts: object) -> int:
    """A seed below 2**63 from the hash of `parts`."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1


class Numbers(torch.utils.data.Dataset):
    """The numbers of all draws of a run; `BatchMaker` knows what they stand for."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, number: int) -> int:
        return number


class Shuffle:
    """Endless passes over `size` items, each pass in an order of its own: number -> index."""

    def __init__(self, size: int, seed: int, name: str) -> None:
        self._size, self._seed, self._name = size, seed, name
        self._pass, self._order = -1, np.empty(0, np.int64)

    def __getitem__(self, number: int) -> int:
        turn, place = divmod(number, self._size)
        if turn != self._pass:
            rng = np.random.default_rng(seed_of(self._seed, self._name, turn))
            self._pass, self._order = turn, rng.permutation(self._size)
        return int(self._order[place])


class BatchMaker:
    """Collator: numbers of draws -> the tensors of one micro-batch.

    A batch is [winners, losers, prior] along the first dimension, in that order: `moments`, `noise`, `timesteps`,
    `conditioning`, and, when latents are sampled, `posterior_noise`. `weights` (winners,) are the shares of the two
    terms. Winner and loser of a pair have the same prompt, noise and timestep. `anchor_conditioning`, for the winners
    or for winners and losers, is there when the anchor's target is the reference's prediction under the safe prompt;
    `gaps` (winners,), the judges' safety gaps, when the preference term has a margin. `ref_errors`, `ref_anchor`
    and `ref_prior` are there when `reference` is set: what it has stored for these draws. When `tokenize` is set, for
    text encoders that run in the step, `tokens` are those of each distinct prompt, and `conditioning` also holds
    `prompt` (rows,): which of them.

    Args:
        pairs (`Sequence[Pair]`): to train on.
        prior (`Sequence[Picture]`): for the prior; may be empty when there is no prior.
        encoded (`Encoded`): holds all of them.
        draw_timestep (`Callable`): the family's own, `Denoiser.draw_timestep`.
        args (`DiffusionDPOConfig`): seed, batch sizes, shares.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        prior: Sequence[Picture],
        encoded: Encoded,
        draw_timestep: Callable[[torch.Generator], Tensor],
        args: DiffusionDPOConfig,
    ) -> None:
        self._pairs, self._prior, self._encoded, self._args = pairs, prior, encoded, args
        self._draw_timestep = draw_timestep
        self._pair_order = Shuffle(len(pairs), args.seed, "pairs")
        self._prior_order = Shuffle(max(len(prior), 1), args.seed, "prior")
        sides = (("unsafe_prompt", args.unsafe_prompt_weight), ("safe_prompt", args.safe_prompt_weight))
        self._sides = [(name, weight) for name, weight in sides if weight > 0]
        self.fixed_seed = args.seed if args.data_seed is None else args.data_seed
        self.reference: ReferenceCache | None = None
        self.tokenize: Callable[[Sequence[str]], dict[str, Tensor]] | None = None

    def __call__(self, numbers: list[int]) -> dict[str, Any]:
        winners, losers, weights, anchors, gaps, seen = [], [], [], [], [], []
        for number in numbers:
            pair = self._pair_at(number)
            for side, weight in self._sides:
                if self._args.ref_draws is None:
                    winner, loser = self._pair(pair, side, self._args.prompt_dropout, "pair", number)
                else:
                    draw = number // len(self._pairs) % self._args.ref_draws
                    winner, loser = self.fixed_pair(pair, side, draw)
                    seen.append((pair, side, draw))
                winners.append(winner)
                losers.append(loser)
                weights.append(weight)
                gaps.append(pair.gap)
                anchors.append(anchor_prompt(pair, winner))
        # The number of the micro-batch follows from its first draw, so the prior goes on where the last one ended.
        first = numbers[0] // len(numbers) * self._args.prior_batch_size
        turns = range(first, first + (self._args.prior_batch_size if self._prior else 0))
        prior = [self._prior_draw(number) for number in turns]
        batch = {**self.stack(winners + losers + prior), "weights": torch.tensor(weights)}
        if self._args.margin_weight > 0:
            batch["gaps"] = torch.tensor(gaps)
        if self.reference is not None:
            return batch | self.reference.batch(seen, [self._prior_place(number) for number in turns])
        if self._args.sft_weight > 0 and self._args.sft_target != "data":
            anchored = winners
            if self._args.sft_target == "reference_both":
                anchors, anchored = 2 * anchors, winners + losers
            batch["anchor_conditioning"] = self._conditioning(anchors, [one[-1] for one in anchored])
        return batch

    def gap_batch(self, numbers: list[int]) -> dict[str, Any]:
        """A batch of [winners, losers] under the unsafe prompt alone, with draws that training does not use."""
        order = Shuffle(len(self._pairs), self._args.seed, "gap")
        side = self._sides[0][0]
        both = [self._pair(self._pairs[order[number]], side, 0.0, "gap", number) for number in numbers]
        return self.stack([winner for winner, _ in both] + [loser for _, loser in both])

    def held_out_batch(self, numbers: list[int]) -> dict[str, Any]:
        """A batch of [winners, losers], with `weights` and `gaps` as in training and draws that are the same at every
        evaluation: number n is draw n // pairs of pair n modulo pairs, under each side in turn."""
        both, weights, gaps = [], [], []
        for number in numbers:
            draw, index = divmod(number, len(self._pairs))
            pair = self._pairs[index]
            for side, weight in self._sides:
                seed = seed_of(self.fixed_seed, "held out", pair.pair_id, side, draw)
                both.append(self._pair_of(pair, side, 0.0, seed))
                weights.append(weight)
                gaps.append(pair.gap)
        batch = self.stack([winner for winner, _ in both] + [loser for _, loser in both])
        batch["weights"] = torch.tensor(weights)
        if self._args.margin_weight > 0:
            batch["gaps"] = torch.tensor(gaps)
        return batch

    def probe(self, pair: Pair) -> dict[str, Any]:
        """A batch of the size of `pair`'s moments that says how a family noises, whatever the pairs are: ramps instead
        of its moments and noise, at timesteps of a seed that is always the same."""
        draws = []
        for seed in range(_PROBES):
            moments, prompt, timestep, noise, *others = self._pair_of(pair, self.sides[0], 0.0, seed)[0]
            ramp = [torch.linspace(-1, 1, one.numel()).view_as(one) for one in (moments, noise)]
            draws.append((ramp[0], prompt, timestep, ramp[1].flip(0), *others))
        return self.stack(draws)

    @property
    def sides(self) -> list[str]:
        """The sides of a pair whose prompts are trained on: `unsafe_prompt`, `safe_prompt` or both."""
        return [name for name, _ in self._sides]

    def image_conditioning(self, image: str) -> dict[str, Tensor]:
        """`EncodedPairs.image_conditioning`."""
        return self._encoded.image_conditioning(image)

    def fixed_pair(self, pair: Pair, side: str, draw: int) -> tuple[Draw, Draw]:
        """Winner and loser of one of the fixed draws of a pair, 0 to `ref_draws` - 1."""
        seed = seed_of(self.fixed_seed, "fixed pair", pair.pair_id, side, draw)
        return self._pair_of(pair, side, self._args.prompt_dropout, seed)

    def fixed_picture(self, picture: Picture, draw: int) -> Draw:
        """One of the fixed draws of a picture of the prior, 0 to `ref_draws` - 1."""
        return self._picture_of(picture, seed_of(self.fixed_seed, "fixed prior", picture.image, picture.prompt, draw))

    def _pair_at(self, number: int) -> Pair:
        """The pair of a number."""
        return self._pairs[self._pair_order[number]]

    def _pair(self, pair: Pair, side: str, dropout: float, name: str, number: int) -> tuple[Draw, Draw]:
        return self._pair_of(pair, side, dropout, seed_of(self._args.seed, name, number, side))

    def _pair_of(self, pair: Pair, side: str, dropout: float, seed: int) -> tuple[Draw, Draw]:
        generator = torch.Generator().manual_seed(seed)
        prompt = getattr(pair, side)
        winner, loser = self._encoded.moments(pair.safe_image), self._encoded.moments(pair.unsafe_image)
        timestep = self._draw_timestep(generator)
        if torch.rand((), generator=generator) < dropout:
            prompt = ""
        noise = _noise_like(winner, generator)
        return (
            (winner, prompt, timestep, noise, _noise_like(winner, generator), pair.safe_image),
            (loser, prompt, timestep, noise, _noise_like(winner, generator), pair.unsafe_image),
        )

    def _prior_place(self, number: int) -> tuple[Picture, int]:
        """The picture of a number, and which of its fixed draws."""
        picture = self._prior[self._prior_order[number]]
        return picture, number // len(self._prior) % (self._args.ref_draws or 1)

    def _prior_draw(self, number: int) -> Draw:
        picture, draw = self._prior_place(number)
        if self._args.ref_draws is not None:
            return self.fixed_picture(picture, draw)
        return self._picture_of(picture, seed_of(self._args.seed, "prior", number))

    def _picture_of(self, picture: Picture, seed: int) -> Draw:
        generator = torch.Generator().manual_seed(seed)
        moments = self._encoded.moments(picture.image)
        timestep = self._draw_timestep(generator)
        empty = bool(torch.rand((), generator=generator) < self._args.prior_empty_share)
        noise = _noise_like(moments, generator)
        prompt = "" if empty else picture.prompt
        return moments, prompt, timestep, noise, _noise_like(moments, generator), picture.image

    def stack(self, draws: Sequence[Draw]) -> dict[str, Any]:
        """Draws as the tensors of a batch, in their order."""
        moments, prompts, timesteps, noise, posterior, images = zip(*draws, strict=True)
        batch: dict[str, Any] = {
            "moments": torch.stack(moments),
            "noise": torch.stack(noise),
            "timesteps": torch.stack(timesteps),
            "conditioning": self._conditioning(prompts, images),
        }
        if self._args.sample_latents:
            batch["posterior_noise"] = torch.stack(posterior)
        if self.tokenize is not None:
            places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
            batch["tokens"] = self.tokenize(list(places))
            batch["conditioning"]["prompt"] = torch.tensor([places[prompt] for prompt in prompts])
        return batch

    def _conditioning(self, prompts: Sequence[str], images: Sequence[str]) -> dict[str, Tensor]:
        both = zip(prompts, images, strict=True)
        told = [{**self._encoded.prompt(prompt), **self._encoded.image_conditioning(image)} for prompt, image in both]
        return {name: torch.stack([one[name] for one in told]) for name in told[0]}


def anchor_prompt(pair: Pair, winner: Draw) -> str:
    """The prompt under which the reference predicts the anchor of a winner and its loser. A dropped prompt is dropped
    here too: without a prompt, nothing is to change."""
    return pair.safe_prompt if winner[1] else ""


def _noise_like(moments: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn((moments.shape[0] // 2, *moments.shape[1:]), generator=generator)
