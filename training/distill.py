"""The distilled merge of experts that adapt text encoders: one LoRA that answers each prompt as its expert would.

What a text encoder and the layers that read its output do is a function of the prompt alone, and not a linear one: the
layers of an encoder follow each other, so an update that is best layer by layer (`training.least_squares`) gives the
next layer inputs that it was not made for. Here the layers are fitted together, by gradient descent on prompts. No
picture and no pass of the denoiser is needed; layers that see more than the prompt stay as they were.

With the readers r (`attn2.to_k` and `attn2.to_v` of a UNet, where they are adapted) and `f_r(W; p)` what reader r gives
for prompt p under the update W of all layers, it minimises

    mean_r [mean_k E_k |f_r(W; p) - f_r(W_k; p)|^2 + l E_safe |f_r(W; p) - f_r(0; p)|^2] / n_r

over tokens and prompts; l is `distill_safe_weight`, and n_r the mean of `|f_r(W_k; p) - f_r(0; p)|^2`, so that doing
nothing at all costs 1. An embedding that no adapted layer reads counts as it is."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from tqdm import tqdm

from recipes import MergeConfig
from training.adapters import in_text_encoder
from training.calibration import Experts, modules_of, see_prompt_alone, with_text_encoders
from training.calibration_samples import Sample
from training.denoisers import Denoiser
from training.draws import seed_of
from training.low_rank import Factors

_READ = "prompt_embeds"
# Prompts that are encoded at once where no gradients are made.
_BATCH = 256

Update = Mapping[str, Factors]
Tensors = dict[str, Tensor]


class PromptNetworks:
    """What reads prompts, under an update or none: the text encoders, and the adapted layers that their output is fed
    to. Updates reach them only inside `hooked()`.

    Args:
        denoiser (`Denoiser`): its text encoders are kept; all its weights are frozen.
        layers (`Mapping[str, Factors]`): of an expert.

    Attributes:
        layers (`list[str]`): those of them that see the prompt alone.

    Raises:
        `RecipeError`: for a layer that the base model does not have in this shape.
    """

    def __init__(self, denoiser: Denoiser, layers: Update) -> None:
        both = with_text_encoders(denoiser)
        alone = see_prompt_alone(both, layers)
        seen = {layer: factors for layer, factors in layers.items() if layer in alone}
        self._modules = modules_of(both, seen)
        self.layers = list(seen)
        self._readers = [layer for layer in self.layers if not in_text_encoder(layer)]
        self._denoiser = denoiser
        self._update: Update | None = None
        for network in (denoiser.model, *denoiser.text_encoders.values()):
            network.requires_grad_(False)
        self.device = next(next(iter(denoiser.text_encoders.values())).parameters()).device

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Let updates reach the layers."""
        handles = [module.register_forward_hook(self._hook(layer)) for layer, module in self._modules.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, layer: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if self._update is None:
                return None
            a, b = self._update[layer]
            return output + ((args[0].to(a) @ a.T) @ b.T).to(output)

        return hook

    def tokens(self, prompts: Sequence[str]) -> Tensors:
        """Of each prompt, for `embed`."""
        return {name: some.to(self.device) for name, some in self._denoiser.tokenize(list(prompts)).items()}

    def embed(self, tokens: Tensors, update: Update | None) -> Tensors:
        """The text encoders' embeddings: name -> (prompts, .., width)."""
        self._update = update
        return self._denoiser.encode_tokens(tokens)

    def read(self, embeds: Tensors, update: Update | None) -> list[Tensor]:
        """What each reader makes of embeddings, and the embeddings that none of them reads, float32."""
        self._update = update
        read = [self._modules[layer](embeds[_READ].to(self._modules[layer].weight)) for layer in self._readers]
        told = [embed for name, embed in sorted(embeds.items()) if name != _READ or not self._readers]
        return [answer.float() for answer in (*read, *told)]

    @torch.no_grad()
    def embed_all(self, prompts: Sequence[str], update: Update | None) -> Tensors:
        """`embed` of any number of prompts, a part at a time."""
        parts = [self.embed(self.tokens(prompts[at : at + _BATCH]), update) for at in range(0, len(prompts), _BATCH)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


class _Group:
    """Prompts that share a teacher: an expert, or the base model where it is None."""

    def __init__(self, networks: PromptNetworks, prompts: Sequence[str], teacher: Update | None) -> None:
        self._networks, self._teacher = networks, teacher
        self.size = len(prompts)
        self.tokens = networks.tokens(prompts)
        self.embeds = networks.embed_all(prompts, teacher)

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """Places of at most `size` of the prompts, none twice."""
        return torch.randperm(self.size, generator=generator)[:size].to(self._networks.device)

    @torch.no_grad()
    def answers(self, places: Tensor) -> list[Tensor]:
        """What the teacher gives for some of the prompts."""
        return self._networks.read(_at(self.embeds, places), self._teacher)


def distill(
    denoiser: Denoiser, experts: Experts, start: Update, samples: Sequence[Sample], config: MergeConfig, seed: int
) -> dict[str, Factors]:
    """Fit a merged LoRA to what its experts do to prompts.

    Args:
        denoiser (`Denoiser`): the base model; its text encoders are kept from now on.
        experts (`Experts`): category -> layer -> `(A, B)`, any scaling included.
        start (`Mapping[str, Factors]`): layer -> factors to begin from; their ranks stay.
        samples (sequence of `Sample`): calibration prompts of every category; their pictures are not looked at.
        config (`MergeConfig`): distill_steps, distill_learning_rate, distill_batch_size, distill_safe_weight and
            empty_share.
        seed (`int`): of the order of prompts.

    Returns:
        `dict[str, Factors]`: `start` with the layers that see the prompt alone fitted. Where the experts adapt no text
        encoder it is `start` itself: the layers are linear then, and least squares is the best there is.

    Raises:
        `RecipeError`: for experts of another base model.
    """
    if not any(in_text_encoder(layer) for layer in start):
        return dict(start)
    networks = PromptNetworks(denoiser, start)
    device, generator = networks.device, torch.Generator().manual_seed(seed_of(seed, "distill") % 2**63)
    teachers = {
        category: {layer: (a.float().to(device), b.float().to(device)) for layer, (a, b) in experts[category].items()}
        for category in sorted(experts)
    }
    with networks.hooked():
        unsafe = [
            _Group(networks, [s.prompt for s in samples if s.group == f"unsafe/{category}"], teacher)
            for category, teacher in teachers.items()
        ]
        safe = _Group(networks, [s.prompt for s in samples if s.side == "safe"], None)
        empty = _Group(networks, [""], None)
        norms = _norms(networks, unsafe)
        fitted = {layer: _parameters(start[layer], device) for layer in networks.layers}
        optimizer = torch.optim.Adam([part for pair in fitted.values() for part in pair], config.distill_learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.distill_steps)
        share = max(1, config.distill_batch_size // len(unsafe))
        for _ in tqdm(range(config.distill_steps), desc="distill", unit="step"):
            drawn = [(group, group.draw(share, generator)) for group in unsafe]
            drawn += [(safe, safe.draw(config.distill_batch_size, generator)), (empty, empty.draw(1, generator))]
            off = _errors(networks, fitted, drawn, norms)
            silent = (1 - config.empty_share) * off[-2] + config.empty_share * off[-1]
            loss = torch.stack(off[:-2]).mean() + config.distill_safe_weight * silent
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    done = {layer: (a.detach().to(start[layer][0]), b.detach().to(start[layer][1])) for layer, (a, b) in fitted.items()}
    return {**start, **done}


def _errors(
    networks: PromptNetworks, update: Update, drawn: Sequence[tuple[_Group, Tensor]], norms: Sequence[Tensor]
) -> list[Tensor]:
    """For each group the mean over readers of the squared error over n_r; the encoders run once for all of them."""
    rows = [_at(group.tokens, places) for group, places in drawn]
    embeds = networks.embed({name: torch.cat([some[name] for some in rows]) for name in rows[0]}, update)
    parts = {name: embed.split([len(places) for _, places in drawn]) for name, embed in embeds.items()}
    errors = []
    for number, (group, places) in enumerate(drawn):
        right = group.answers(places)
        given = networks.read({name: part[number] for name, part in parts.items()}, update)
        off = [_size(one - other) / norm for one, other, norm in zip(given, right, norms, strict=True)]
        errors.append(torch.stack(off).mean())
    return errors


def _norms(networks: PromptNetworks, unsafe: Sequence[_Group]) -> list[Tensor]:
    """n_r of each answer: the mean over categories of what their experts change there."""
    moved: list[list[Tensor]] = []
    for group in unsafe:
        with torch.no_grad():
            every = torch.arange(group.size, device=networks.device).split(_BATCH)
            sizes = []
            for places in every:
                plain = networks.read(networks.embed(_at(group.tokens, places), None), None)
                sizes.append([_size(one - two) for one, two in zip(group.answers(places), plain, strict=True)])
            weights = torch.tensor([len(places) / group.size for places in every], device=networks.device)
            moved.append([(torch.stack(one) * weights).sum() for one in zip(*sizes, strict=True)])
    norms = [torch.stack(one).mean() for one in zip(*moved, strict=True)]
    # What no expert moves is held like the rest.
    least = torch.stack(norms).max() * 1e-6 + torch.finfo(torch.float32).tiny
    return [norm.clamp_min(least) for norm in norms]


def _parameters(factors: Factors, device: torch.device) -> tuple[nn.Parameter, nn.Parameter]:
    a, b = (nn.Parameter(part.detach().float().clone().to(device)) for part in factors)
    return a, b


def _size(values: Tensor) -> Tensor:
    """The mean squared norm of vectors in the last dimension."""
    return values.square().sum(-1).mean()


def _at(tensors: Tensors, places: Tensor) -> Tensors:
    return {name: some[places] for name, some in tensors.items()}
