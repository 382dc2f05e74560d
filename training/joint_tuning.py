"""A short joint tuning of a merged LoRA: Diffusion-DPO on all categories' pairs at once, from the merge on.

A merge of linear maps cannot undo what experts do to each other inside the network; a few steps that see all of them
together can. Which merges are tuned, `training.merge` decides."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm
from transformers.trainer_utils import get_last_checkpoint

from recipes import MergeConfig, Recipe, TrainConfig
from training.adapters import Adapter, in_text_encoder, load_into, lora_layers
from training.draws import seed_of
from training.expert import (
    Base,
    ProgressCallback,
    cpu_threads,
    expert_config,
    forget_other_checkpoints,
    remove_checkpoints,
)
from training.low_rank import Factors, pad
from training.pairs import safe_pictures
from training.trainer import lora_config


def tune_jointly(
    recipe: Recipe, config: MergeConfig, layers: dict[str, Factors], base: Callable[[], Base], work: Path, mark: str
) -> dict[str, Factors]:
    """Train a merged LoRA for `config.tune_steps` more steps, on the pairs of all categories.

    Loss, batch and schedule are those of the experts (`recipe.train`), but for what `config` says of the tuning: its
    steps, its peak learning rate and the weight of its prior.

    Args:
        recipe (`Recipe`): train, base_model, revision and seed.
        config (`MergeConfig`): of this merge.
        layers (`dict[str, Factors]`): layer -> `(A, B)` of the merge, any scaling included.
        base (`Callable`): gives the frozen model, the pairs and the caches; called only here.
        work (`Path`): folder of the checkpoints; removed when the tuning is done.
        mark (`str`): a hash of all that the result follows from; checkpoints of another one are not resumed.

    Returns:
        `dict[str, Factors]`: layer -> `(A, B)` of the tuned LoRA, of the same ranks as before (the widest layer's).
    """
    recipe = replace(recipe, train=tuning_config(recipe, config))
    return train_on_all(recipe, config.tune_steps, config.tune_learning_rate, layers, base(), work, mark)


def tuning_config(recipe: Recipe, config: MergeConfig) -> TrainConfig:
    """The section train as it holds for a training on all categories at once: with the tuning's prior."""
    if config.tune_prior_weight is None:
        return recipe.train
    return replace(recipe.train, prior_weight=config.tune_prior_weight)


def train_on_all(
    recipe: Recipe,
    steps: int,
    learning_rate: float,
    start: dict[str, Factors] | int,
    known: Base,
    work: Path,
    mark: str,
) -> dict[str, Factors]:
    """Train one LoRA on the pairs of all categories at once; the safe prompts' prior keeps the rest.

    Args:
        recipe (`Recipe`): train, base_model, revision and seed.
        steps (`int`), learning_rate (`float`): of this training, at least 1 and above 0; its peak.
        start (`dict[str, Factors]` or `int`): the factors to go on from, or a rank, to begin at zero as experts do: on
            the experts' layers, with the experts' `alpha / rank`.
        known (`Base`): the frozen model, the pairs and the caches.
        work (`Path`), mark (`str`): as for `tune_jointly`.

    Returns:
        `dict[str, Factors]`: layer -> `(A, B)`, any scaling included, all of one rank.
    """
    threads = recipe.train.threads * recipe.train.workers
    # All its steps: what is held out, and what is sampled, is one category's.
    train = replace(recipe.train, max_steps=steps, learning_rate=learning_rate, threads=threads)
    train = replace(train, early_stopping=0, sample_steps=0)
    tuned = replace(recipe, train=train)
    args = expert_config(tuned, "merged", work)
    args.output_dir = str(work)
    desc = "all categories" if isinstance(start, int) else "joint tuning"
    args.seed = seed_of(recipe.seed, desc) % 2**31
    if isinstance(start, int):
        rank, layers = start, {}
        lora = lora_config(rank, train.alpha * rank / train.rank, known.lora_config(train).target_modules)
    else:
        rank = max(len(a) for a, _ in start.values())
        layers = {name: pad(factors, rank) for name, factors in start.items()}
        lora = lora_config(rank, rank, [name for name in layers if not in_text_encoder(name)])
        args.train_text_encoder = any(in_text_encoder(layer) for layer in layers)
    forget_other_checkpoints(work, mark)
    with tqdm(total=steps, desc=desc, unit="step") as bar, cpu_threads(tuned):

        def report(step: int) -> None:
            bar.update(step - bar.n)

        pairs = known.data.pairs
        with known.trainer(args, pairs, safe_pictures(pairs), lora, [ProgressCallback(report)]) as trainer:
            if layers:
                load_into(trainer.model, Adapter(layers, dict.fromkeys(layers, float(rank)), {}))
            trainer.train(resume_from_checkpoint=get_last_checkpoint(str(work)))
            result = {
                name: (a.weight.detach().clone(), scaling * b.weight.detach().clone())
                for name, (a, b, scaling) in lora_layers(trainer.model).items()
            }
    remove_checkpoints(work)
    return result
