"""One safety expert: the recipe's section `train` carried out for one category.

The loss and its loop are the trainer's; which experts are trained, and how many at once, is `experts.py`'s."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from dataset_builder.models import identity, load_pipeline
from recipes import Recipe, RecipeError, TrainConfig
from recipes.writing import read_json
from training.adapters import WEIGHTS_NAME, checksum, save_lora, write_atomically
from training.cache import EncodedPairs
from training.config import ConfigError, DiffusionDPOConfig
from training.denoisers import Denoiser, denoiser_for
from training.draws import seed_of
from training.losses import LOSSES, saturates, suggested_beta
from training.pairs import Pair, PairData, PairsError, Picture, read_split, safe_pictures, unsafe_pictures
from training.policy import remove_lora
from training.samples import SampleCallback
from training.text_encoders import keep_text_encoders
from training.trackers import log_into, own_run
from training.trainer import DiffusionDPOTrainer, lora_config

RECORD = "training.json"
# Raised when the same settings would give other bytes; experts of another format are trained again.
_FORMAT = 1
# Fields of the section that do not change what an expert becomes.
_INDIFFERENT = ("categories", "workers", "threads", "save_steps", "sample_steps", "sample_pairs", "report_to")
# Seconds that processes wait for each other; a launcher ends them as soon as one of them is gone.
_WAIT = 24 * 3600

Report = Callable[[int], None]
"""Called with the steps that are done."""


class Base:
    """What all experts share: the pairs, the frozen network and the caches. The encoders are gone, unless sample
    pictures are to be drawn: then `pipeline` holds them. Text encoders that are trained stay too."""

    def __init__(self, recipe: Recipe, data: PairData, out: Path, held_out: PairData | None = None) -> None:
        self.data, self.held_out = data, held_out
        pipeline = load_pipeline(recipe.base_model, recipe.revision)
        self.pipeline = pipeline if recipe.train.sample_steps else None
        self.denoiser: Denoiser = denoiser_for(pipeline)
        del pipeline
        if recipe.train.train_text_encoder:
            keep_text_encoders(self.denoiser)
        self.denoiser.to("cuda" if torch.cuda.is_available() else "cpu")
        folder = out / "work" / "cache" / "encoded"
        self.encoded = EncodedPairs(data, self.denoiser, folder, recipe.train.resolution, held_out)

    def lora_config(self, train: TrainConfig) -> LoraConfig:
        """The LoRA of an expert: on the layers that the recipe names, or on the family's."""
        return lora_config(train.rank, train.alpha, train.target_modules or self.denoiser.target_modules)

    @contextlib.contextmanager
    def trainer(
        self,
        args: DiffusionDPOConfig,
        pairs: list[Pair],
        prior: list[Picture],
        lora: LoraConfig,
        callbacks: list[TrainerCallback],
        held_out: list[Pair] | None = None,
    ) -> Iterator[DiffusionDPOTrainer]:
        """A trainer on this base, which prints nothing. At the end its adapter is taken out, so that the base goes on
        as it came."""
        try:
            trainer = DiffusionDPOTrainer(
                self.denoiser,
                args=args,
                train_dataset=pairs,
                eval_dataset=held_out,
                prior=prior,
                encoded=self.encoded,
                peft_config=lora,
                callbacks=callbacks,
            )
            trainer.remove_callback(PrinterCallback)
            yield trainer
        finally:
            # A trainer that could not be made may have put its LoRA in already.
            for network in (self.denoiser.model, *self.denoiser.text_encoders.values()):
                remove_lora(network)


def train_expert(recipe: Recipe, base: Base, category: str, out: Path, report: Report) -> Path:
    """Train one expert from its last checkpoint on, or from the start.

    Args:
        recipe (`Recipe`), base (`Base`), category (`str`), out (`Path`): as in `train_experts`.
        report (`Report`): called after every step.

    Returns:
        `Path`: the adapter folder.
    """
    folder, args = out / "experts" / category, expert_config(recipe, category, out)
    print_ = fingerprint(recipe, base.data, category, base.held_out, args.world_size)
    checkpoints = folder / "checkpoints"
    with args.main_process_first(local=False):
        if args.process_index == 0:
            _clear_what_is_stale(folder, print_)
    # The name by which a tracker tells the experts apart, and one that was cut off finds its run again.
    args.run_name = f"{category}-{print_[:8]}"
    pairs = base.data.of(category)
    callbacks: list[TrainerCallback] = [ProgressCallback(report)]
    if base.pipeline is not None:
        train, shown = recipe.train, pairs[: recipe.train.sample_pairs]
        callbacks.append(SampleCallback(base.pipeline, shown, folder / "samples", train.sample_steps, recipe.render))
    held_out = base.held_out.of(category) if base.held_out is not None else None
    prior, lora = prior_of(recipe, base.data, category), base.lora_config(recipe.train)
    with base.trainer(args, pairs, prior, lora, callbacks, held_out) as trainer:
        log_into(folder / "runs", trainer.callback_handler.callbacks)
        with own_run(recipe.train.report_to):
            trainer.train(resume_from_checkpoint=get_last_checkpoint(str(checkpoints)))
        if args.process_index == 0:
            told = {"coprov2": f"safety expert {category}"}
            save_lora(folder, trainer.model, told, component=base.denoiser.component)
    with args.main_process_first(local=False):
        if args.process_index == 0:
            _write_record(recipe, trainer, folder, category, print_, len(pairs))
            remove_checkpoints(checkpoints)
    return folder


def held_out_pairs(recipe: Recipe, dataset: Path, out: Path, categories: list[str]) -> PairData | None:
    """The validation split, if `train.early_stopping` needs it.

    Raises:
        `PairsError`: if it has no pairs of one of `categories`.
    """
    if not recipe.train.early_stopping:
        return None
    data = read_split(dataset, "validation", out / "work" / "cache" / "datasets")
    for category in categories:
        if not data.of(category):
            raise PairsError(f"train.early_stopping: {category!r} has no pairs in the validation split; set it to 0")
    return data


def prior_of(recipe: Recipe, data: PairData, category: str) -> list[Picture]:
    """Where an expert should stay silent: the safe pictures of all categories' pairs, and on request the unsafe ones of
    the other categories."""
    prior = safe_pictures(data.pairs)
    if recipe.train.prior_other_unsafe:
        prior += unsafe_pictures([pair for pair in data.pairs if pair.category != category])
    return prior


def expert_config(recipe: Recipe, category: str, out: Path) -> DiffusionDPOConfig:
    """The trainer's parameters of one expert; its seed derives from the recipe's and the category."""
    train = recipe.train
    fixed = train.precompute_ref_losses or train.ref_draws is not None
    try:
        return DiffusionDPOConfig(
            output_dir=str(out / "experts" / category / "checkpoints"),
            seed=seed_of(recipe.seed, "expert", category) % 2**31,
            max_steps=train.max_steps,
            per_device_train_batch_size=train.batch_size,
            learning_rate=train.learning_rate,
            lr_scheduler_type=train.lr_scheduler,
            warmup_steps=train.warmup_steps,
            beta=train.beta,
            loss_type=train.loss_type,
            label_smoothing=train.label_smoothing,
            hinge_margin=train.hinge_margin,
            dmpo_alpha=train.dmpo_alpha,
            mapo_weight=train.mapo_weight,
            margin_weight=train.margin_weight,
            safeguard_mu=train.safeguard_mu,
            dpo_weight=train.dpo_weight,
            sft_weight=train.sft_weight,
            sft_target=train.sft_target,
            prior_weight=train.prior_weight,
            prior_batch_size=train.prior_batch_size,
            unsafe_prompt_weight=train.unsafe_prompt_weight,
            safe_prompt_weight=train.safe_prompt_weight,
            prompt_dropout=train.prompt_dropout,
            sample_latents=train.sample_latents,
            resolution=train.resolution,
            train_text_encoder=train.train_text_encoder,
            precompute_ref_losses=train.precompute_ref_losses,
            ref_draws=train.ref_draws,
            early_stopping_patience=train.early_stopping,
            eval_steps=train.eval_steps if train.early_stopping else None,
            report_to=train.report_to or "none",
            # The fixed draws of all experts are the same, so that they share what is stored of them.
            data_seed=seed_of(recipe.seed, "fixed draws") % 2**31 if fixed else None,
            # Where `Base` puts the network; without a GPU, bf16 is refused unless the CPU is asked for.
            use_cpu=not torch.cuda.is_available(),
            bf16=train.bf16,
            channels_last=train.channels_last,
            compile_repeated_blocks=train.compile_repeated_blocks,
            batch_slicing=train.batch_slicing,
            save_steps=train.save_steps,
            logging_steps=train.logging_steps,
            disable_tqdm=True,
            # The processes of a launcher wait while the first one encodes, which takes as long as there are pictures.
            ddp_timeout=_WAIT,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
    except RecipeError as error:
        raise ConfigError(f"train.{error}") from None
    except ValueError as error:
        raise ConfigError(f"train: {one_line(error)}") from None


def launched_processes() -> int:
    """Processes that a launcher (`accelerate launch`, `torchrun`) has started to train together; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def fingerprint(
    recipe: Recipe, data: PairData, category: str, held_out: PairData | None = None, processes: int = 1
) -> str:
    """Hash of all that an expert's bytes follow from: settings, seed, base model, pairs, and the number of processes,
    each of which takes a batch of its own."""
    settings = {key: value for key, value in dataclasses.asdict(recipe.train).items() if key not in _INDIFFERENT}
    parts = [_FORMAT, category, recipe.seed, identity(recipe.base_model, recipe.revision), settings, data.fingerprint()]
    if recipe.train.margin_weight > 0:
        parts.append([pair.gap for pair in data.pairs])
    parts += [held_out.fingerprint()] if held_out is not None else []
    parts += [f"{processes} processes"] if processes > 1 else []
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def is_done(folder: Path, print_: str) -> bool:
    """Whether `folder` holds the finished expert of a fingerprint, with the weights it was finished with."""
    record = read_json(folder / RECORD)
    if record.get("fingerprint") != print_ or not (folder / WEIGHTS_NAME).is_file():
        return False
    return record.get("weights_sha256") == checksum(folder)


@contextlib.contextmanager
def cpu_threads(recipe: Recipe) -> Iterator[None]:
    """Run with the recipe's number of torch threads, so that an expert's bits do not depend on who runs it."""
    before = torch.get_num_threads()
    torch.set_num_threads(recipe.train.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_line(error: BaseException) -> str:
    """Type and first line of an error."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


class ProgressCallback(TrainerCallback):
    """Says after every step how many are done."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._report(state.global_step)


def _clear_what_is_stale(folder: Path, print_: str) -> None:
    """Remove what other settings, data or code left; checkpoints of the same fingerprint stay, to go on from."""
    (folder / RECORD).unlink(missing_ok=True)
    (folder / WEIGHTS_NAME).unlink(missing_ok=True)
    for part in folder.glob(".*.part"):
        part.unlink()
    forget_other_checkpoints(folder / "checkpoints", print_)


def forget_other_checkpoints(checkpoints: Path, print_: str) -> None:
    """Empty a folder of checkpoints unless they were made for the fingerprint `print_`, and mark it as its own."""
    mark = checkpoints / "fingerprint"
    if checkpoints.exists() and not (mark.is_file() and mark.read_text("utf8") == print_):
        remove_checkpoints(checkpoints)
    write_atomically(mark, print_.encode())


def remove_checkpoints(checkpoints: Path) -> None:
    """Remove a folder of checkpoints, its mark first: killed on the way, what is left of them is not gone on from."""
    (checkpoints / "fingerprint").unlink(missing_ok=True)
    shutil.rmtree(checkpoints)


def _write_record(
    recipe: Recipe, trainer: DiffusionDPOTrainer, folder: Path, category: str, print_: str, pairs: int
) -> None:
    """`training.json`: written last, so that it also says that the expert is finished."""
    history = [
        # Sorted, because an entry that came back from a checkpoint is.
        {key: value for key, value in sorted(entry.items()) if key != "epoch"}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    record: dict[str, Any] = {
        "category": category,
        "base_model": identity(recipe.base_model, recipe.revision),
        "pairs": pairs,
        "settings": {key: value for key, value in dataclasses.asdict(recipe.train).items() if key not in _INDIFFERENT},
        "seed": trainer.args.seed,
        "fingerprint": print_,
        "weights_sha256": checksum(folder),
        "history": history,
    }
    if trainer.args.world_size > 1:
        # Each has a batch of `batch_size`.
        record["processes"] = trainer.args.world_size
    gap = trainer.reference_gap
    if gap is not None:
        record["reference_gap"] = {"mean": gap}
        if LOSSES[trainer.args.loss_type].saturates:
            record["reference_gap"]["suggested_beta"] = suggested_beta(gap)
            record["reference_gap"]["beta_saturates"] = saturates(trainer.args.beta, gap)
    if history and "error_change/chosen" in history[-1]:
        # Above 0 the margin was won by wrecking both images.
        record["winner_error_rose"] = history[-1]["error_change/chosen"] > 0
    write_atomically(folder / RECORD, (json.dumps(record, indent=1) + "\n").encode())
