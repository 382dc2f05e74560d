"""What the frozen reference says about the fixed draws of all pairs, computed once and read from disk in every step.

Which draws there are is `draws.py`'s, how they are kept is `cache.py`'s; the trainer gives the forward pass."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from training.cache import Encode, TensorCache
from training.config import DiffusionDPOConfig, compares
from training.draws import BatchMaker, Draw, anchor_prompt
from training.losses import denoising_error
from training.pairs import Pair, Picture, chunks

# Rows of a forward pass and their pixels of latents at most, so that large pictures need no more memory here than in a
# training step; and pairs or pictures of a file. All are cut from the whole list of a group, because the last bits of a
# prediction may depend on the size of its batch.
ROWS, ROW_LATENTS = 16, 4 * 64 * 64
ERRORS_SHARD, PREDICTIONS_SHARD = 1024, 64

Forward = Callable[[Sequence[Draw]], tuple[Tensor, Tensor]]
"""Draws -> the reference's prediction and the target, each (draws, *latent)."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class ReferenceTerms:
    """What the losses read of the reference on a batch, computed in the step or stored; all without gradients.

    Attributes:
        errors (`torch.Tensor`, *optional*): (2 * winners,), winners before losers; None if no loss compares with them.
        chosen (`torch.Tensor`, *optional*): the prediction on the winners, (winners, *latent); never stored.
        anchor (`torch.Tensor`): what the policy's prediction on the winners is drawn to, (winners, *latent), or on
            winners and losers, (2 * winners, *latent).
        prior (`torch.Tensor`, *optional*): the prediction on the prior's pictures, (pictures, *latent).
    """

    errors: Tensor | None
    chosen: Tensor | None
    anchor: Tensor
    prior: Tensor | None

    def of_pair(self, winner: int, pairs: int) -> "ReferenceTerms":
        """The part of one of `pairs` winners and its loser."""
        errors = None if self.errors is None else self.errors[winner::pairs]
        chosen = None if self.chosen is None else self.chosen[winner : winner + 1]
        return ReferenceTerms(errors, chosen, self.anchor[winner::pairs], None)


class ReferenceCache:
    """The reference's errors, and its predictions where a loss term needs them whole, for K = `ref_draws` fixed draws.

    Kept for each pair and side: the errors of winner and loser, (K, 2) in fp32, if a loss compares with them, and, if
    an anchor needs it, the prediction on the winner, or on winner and loser, under the safe prompt, (K, 1 or 2,
    *latent). For each picture of the prior: the prediction, (K, *latent). Predictions keep the type that they come in.
    Shards hold pairs of one category or pictures of one `Picture.group`, so runs over the same pairs share them:
    experts their prior, and a joint tuning all pairs.

    Args:
        folder (`Path`): of the shards.
        identity (`str`): of everything but the pair that a prediction follows from; see `reference_identity`.
        maker (`BatchMaker`): gives the draws.
        forward (`Forward`): the reference.
        args (`DiffusionDPOConfig`): K, and which terms there are.
    """

    def __init__(
        self, folder: Path, identity: str, maker: BatchMaker, forward: Forward, args: DiffusionDPOConfig
    ) -> None:
        assert args.ref_draws is not None
        self._maker, self._forward, self._draws = maker, forward, args.ref_draws
        self._compared = compares(args)
        self._anchored = args.sft_weight > 0 and args.sft_target != "data"
        # Pictures of a pair that have an anchor.
        self._sides = 2 if args.sft_target == "reference_both" else 1
        self._errors = TensorCache(folder, f"{identity}/errors")
        self._anchors = TensorCache(folder, f"{identity}/anchors of {self._sides}")
        self._predictions = TensorCache(folder, f"{identity}/predictions")

    def fill(self, pairs: Sequence[Pair], prior: Sequence[Picture]) -> None:
        """Make all fixed draws of `pairs` and of `prior` readable, computing the shards that are missing."""
        for category, some in _grouped(pairs, lambda pair: pair.category).items():
            sided = {self._pair_key(pair, side): (pair, side) for pair in some for side in self._maker.sides}
            if self._compared:
                self._fill(self._errors, sided, self._pair_errors, 2, ERRORS_SHARD, f"reference errors, {category}")
            if self._anchored:
                label = f"reference anchors, {category}"
                self._fill(self._anchors, sided, self._anchor, self._sides, PREDICTIONS_SHARD, label)
        for group, pictures in _grouped(prior, lambda picture: picture.group).items():
            keyed = {self._picture_key(picture): picture for picture in pictures}
            self._fill(self._predictions, keyed, self._picture, 1, PREDICTIONS_SHARD, f"reference predictions, {group}")

    def batch(self, seen: Sequence[tuple[Pair, str, int]], prior: Sequence[tuple[Picture, int]]) -> dict[str, Tensor]:
        """The stored tensors of a micro-batch.

        Args:
            seen (sequence of `(pair, side, draw)`): in the order of the batch's winners.
            prior (sequence of `(picture, draw)`): in the order of the batch's pictures of the prior.

        Returns:
            `dict[str, torch.Tensor]`: `ref_errors` (2 * winners,), winners before losers, if they are compared with;
            `ref_anchor` (winners or 2 * winners, *latent) if there are anchors; `ref_prior` (pictures, *latent) if
            there are pictures.
        """
        keys = [(self._pair_key(pair, side), draw) for pair, side, draw in seen]
        found: dict[str, Tensor] = {}
        if self._compared:
            found["ref_errors"] = torch.stack([self._errors[key]["errors"][draw] for key, draw in keys]).T.reshape(-1)
        if self._anchored:
            anchors = torch.stack([self._anchors[key]["prediction"][draw] for key, draw in keys])
            found["ref_anchor"] = anchors.transpose(0, 1).flatten(0, 1)
        if prior:
            stored = [self._predictions[self._picture_key(picture)]["prediction"][draw] for picture, draw in prior]
            found["ref_prior"] = torch.stack(stored)
        return found

    def _fill(self, cache: TensorCache, items: dict[str, Any], compute: Any, rows: int, shard: int, name: str) -> None:
        def encode(keys: list[str]) -> dict[str, Tensor]:
            return compute([items[key] for key in keys])

        call: Encode = encode
        cache.fill(list(items), call, max(1, ROWS // (rows * self._draws)), shard, name)

    def _pair_errors(self, items: list[tuple[Pair, str]]) -> dict[str, Tensor]:
        both = [self._maker.fixed_pair(pair, side, draw) for pair, side in items for draw in range(self._draws)]
        prediction, target = self._forwarded([winner for winner, _ in both] + [loser for _, loser in both])
        error = denoising_error(prediction, target).cpu()
        return {"errors": error.view(2, len(items), self._draws).permute(1, 2, 0)}

    def _anchor(self, items: list[tuple[Pair, str]]) -> dict[str, Tensor]:
        draws = []
        for pair, side in items:
            for draw in range(self._draws):
                both = self._maker.fixed_pair(pair, side, draw)
                prompt = anchor_prompt(pair, both[0])
                draws += [(one[0], prompt, *one[2:]) for one in both[: self._sides]]
        prediction, _ = self._forwarded(draws)
        return {"prediction": prediction.cpu().unflatten(0, (-1, self._draws, self._sides))}

    def _picture(self, items: list[Picture]) -> dict[str, Tensor]:
        draws = [self._maker.fixed_picture(picture, draw) for picture in items for draw in range(self._draws)]
        return {"prediction": self._predicted(draws)}

    def _predicted(self, draws: list[Draw]) -> Tensor:
        prediction, _ = self._forwarded(draws)
        return prediction.cpu().unflatten(0, (-1, self._draws))

    def _forwarded(self, draws: list[Draw]) -> tuple[Tensor, Tensor]:
        height, width = draws[0][0].shape[-2:]
        rows = max(1, min(ROWS, ROW_LATENTS // (height * width)))
        predictions, targets = zip(*(self._forward(some) for some in chunks(draws, rows)), strict=True)
        return torch.cat(predictions), torch.cat(targets)

    def _pair_key(self, pair: Pair, side: str) -> str:
        parts = (pair.pair_id, pair.safe_image, pair.unsafe_image, pair.unsafe_prompt, pair.safe_prompt, side)
        return _key(parts, self._told(pair.safe_image), self._told(pair.unsafe_image))

    def _picture_key(self, picture: Picture) -> str:
        return _key((picture.image, picture.prompt), self._told(picture.image))

    def _told(self, image: str) -> list[tuple[str, list[float]]]:
        """What the network is told of a picture, which its hash alone does not decide."""
        told = self._maker.image_conditioning(image)
        return [(name, tensor.flatten().tolist()) for name, tensor in sorted(told.items())]


def reference_identity(
    network: str, encoded: str, denoising: str, numerics: Sequence[object], draws: Sequence[object]
) -> str:
    """A hash of everything but the pair that the reference's predictions and errors follow from.

    Args:
        network (`str`): `module_hash` of the reference. encoded (`str`): `EncodedPairs.identity`.
        denoising (`str`): `denoising_hash`. numerics (sequence): precision, kind of device, memory
            format and compilation.
        draws (sequence): seed, number and shares of the fixed draws.
    """
    return hashlib.sha256(json.dumps([network, encoded, denoising, list(numerics), list(draws)]).encode()).hexdigest()


def denoising_hash(noisy: Tensor, target: Tensor) -> str:
    """SHA-256 of a noised probe and its target: a schedule or a prediction type is known by what it does."""
    digest = hashlib.sha256()
    for tensor in (noisy, target):
        digest.update(tensor.detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()


def _key(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _grouped(items: Sequence[Item], group: Callable[[Item], str]) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(group(item), []).append(item)
    return groups
