"""`DiffusionDPOTrainer`: Diffusion-DPO with LoRA on `transformers.Trainer`, which keeps the loop, the optimizer,
logging, devices and checkpoints.

Losses are `losses.py`'s, model families `denoisers/`'s, the draws of a step `draws.py`'s. Reference and policy are
one network: the reference is the policy with its adapter switched off."""

import json
import math
import os
import shutil
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from diffusers import DiffusionPipeline
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import EvalPrediction, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput
from transformers.utils import logging

from training.adapters import load_into, load_lora, save_lora, write_atomically
from training.batch_loss import batch_loss, pair_errors, preference
from training.cache import EncodedPairs
from training.config import ConfigError, DiffusionDPOConfig, compares
from training.denoisers import Denoiser, denoiser_for, module_hash
from training.draws import BatchMaker, Draw, Numbers
from training.hub_upload import HubUploads
from training.losses import LOSSES, denoising_error, saturates, suggested_beta, weighted_mean
from training.metrics import EarlyStopping, held_out_metrics, logged_metrics
from training.pairs import Pair, PairData, Picture, chunks, require_gaps, safe_pictures
from training.policy import adapter_off, new_policy
from training.precision import compile_blocks, hold_base, keep_activations_low
from training.reference import ReferenceCache, ReferenceTerms, denoising_hash, reference_identity
from training.slicing import one_by_one, sliced_loss
from training.streamed_batches import StreamedBatches, check_streams, load_stream, save_stream
from training.streaming import EncodedStream
from training.text_encoders import TextEncoderLoRA, keep_text_encoders
from training.trackers import mend_callbacks

logger = logging.get_logger(__name__)

_METRICS_FILE = "metrics.json"
_GAP_BATCH = 16
_HASHED_VALUES = 64


class DiffusionDPOTrainer(HubUploads):
    r"""Trains a LoRA so that, under one prompt, the safe image is denoised better than the unsafe one.

    At step 0 the preference term is exactly ln 2. Each logged entry holds means since the last one: the loss and its
    terms (`loss/dpo`, `loss/sft`, `loss/prior`), `rewards/chosen`, `rewards/rejected`, `rewards/margins`,
    `rewards/accuracies`, and `error_change/chosen`: how far the winner's denoising error rose over the reference's. The
    last is the alarm: above 0, the margin grows by wrecking both images, however good the accuracy looks. A loss that
    needs no reference (`mapo`, or no preference term at all) is trained without the reference's pass over the pairs,
    and has `error/chosen` and `error/rejected` in the place of the changes; with the safeguard, `safeguard/scale` is
    the mean factor on the loser's gradient.

    Args:
        model (`DiffusionPipeline` or `Denoiser`):
            What to train. The pipeline's denoiser gets the LoRA in place; its encoders are moved back to the CPU.
        ref_model (`torch.nn.Module`, *optional*):
            The reference. `None` takes `model` with the adapter switched off, which needs no memory of its own.
        args (`DiffusionDPOConfig`):
            Parameters.
        train_dataset (`datasets.Dataset`, `datasets.IterableDataset` or sequence of `Pair`):
            CoProV2's columns (`training.pairs.COLUMNS`), or pairs whose pictures and prompts are in `encoded`. A stream
            (`load_dataset(..., streaming=True)`) is encoded as it comes and never put on disk; it needs `max_steps`,
            and the encoders stay in memory. Filter it for a category (`IterableDataset.filter`).
        eval_dataset (`datasets.Dataset` or sequence of `Pair`, *optional*):
            Held-out pairs, given as `train_dataset` is; see `eval_draws` and `early_stopping_patience`.
        prior (sequence of `Picture`, *optional*):
            Pictures on which the policy is held to the reference; `None` takes the safe sides of the pairs.
        encoded (`EncodedPairs`, *optional*):
            The cache; `None` makes one in `output_dir/cache`.
        peft_config (`peft.LoraConfig`, *optional*):
            `None` takes the official trainer's rank and alpha of 4 on the family's `target_modules`: for a UNet the
            official to_q, to_k, to_v, to_out.0 of self- and cross-attention.
        callbacks, optimizers: as in `transformers.Trainer`.

    Raises:
        `ConfigError`: if arguments do not fit together. `DenoiserError`: for an unsupported pipeline.

    Example:
        ```python
        trainer = DiffusionDPOTrainer(pipeline, args=DiffusionDPOConfig("out"), train_dataset=dataset)
        trainer.train()
        trainer.save_model("expert")  # pipeline.load_lora_weights("expert")
        ```
    """

    # compute_loss returns the mean of a micro-batch, so Trainer divides it by the accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: DiffusionPipeline | Denoiser,
        ref_model: nn.Module | None = None,
        args: DiffusionDPOConfig | None = None,
        train_dataset: Dataset | IterableDataset | Sequence[Pair] | None = None,
        eval_dataset: Dataset | Sequence[Pair] | None = None,
        prior: Sequence[Picture] | None = None,
        encoded: EncodedPairs | None = None,
        peft_config: LoraConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
    ) -> None:
        # Arguments
        args = args or DiffusionDPOConfig(output_dir="diffusion-dpo")
        # One process drives one device: winner, loser and prior share a batch, which DataParallel would tear apart.
        args._n_gpu = min(args.n_gpu, 1)
        if args.ddp_find_unused_parameters is None:
            # Every layer of the adapter takes part in every step.
            args.ddp_find_unused_parameters = False

        # Data: encode once, then the encoders are not needed any more
        denoiser = denoiser_for(model) if isinstance(model, DiffusionPipeline) else model
        pairs: Sequence[Pair]
        held_out = PairData(eval_dataset) if isinstance(eval_dataset, Dataset) else None
        eval_pairs = (eval_dataset or []) if held_out is None else held_out.pairs
        if args.early_stopping_patience and not eval_pairs:
            raise ConfigError("early_stopping_patience: needs held-out pairs; give eval_dataset, or set it to 0")
        check_streams(args, train_dataset, eval_dataset, prior=prior, encoded=encoded)
        if args.train_text_encoder:
            keep_text_encoders(denoiser)
        folder, stream = Path(args.output_dir) / "cache", None
        if isinstance(train_dataset, IterableDataset):
            pairs, stream = [], EncodedStream(train_dataset, denoiser.to(args.device), args)
            encoded = EncodedPairs(None, denoiser, folder, args.resolution, held_out, keep_encoders=True)
        elif isinstance(train_dataset, Dataset):
            data = PairData(train_dataset)
            pairs = data.pairs
            if encoded is None:
                encoded = EncodedPairs(data, denoiser.to(args.device), folder, args.resolution, held_out)
        else:
            pairs = train_dataset or []
        if not (pairs or stream) or encoded is None:
            raise ConfigError(
                "train_dataset: expected a dataset with rows, or pairs together with encoded=EncodedPairs(...)"
            )
        if isinstance(model, DiffusionPipeline) and stream is None:
            trained = [denoiser.model, *denoiser.text_encoders.values()]
            for component in model.components.values():
                if isinstance(component, nn.Module) and component not in trained:
                    component.to("cpu")
        prior = (safe_pictures(list(pairs)) if prior is None else prior) if args.prior_weight > 0 else []
        if args.prior_weight > 0 and not prior and stream is None:
            raise ConfigError("prior: empty, while prior_weight is above 0; give pictures or set prior_weight to 0")
        if args.margin_weight > 0:
            require_gaps([*pairs, *eval_pairs])
        if args.resolution is not None and encoded.resolution != args.resolution:
            raise ConfigError(
                f"resolution: {args.resolution}, while encoded was made with {encoded.resolution}; give both the same"
            )
        self._maker = BatchMaker(pairs, prior, encoded, denoiser.draw_timestep, args)
        if stream is not None:
            self._maker = StreamedBatches(stream, denoiser, args)
        self._eval_maker = BatchMaker(eval_pairs, [], encoded, denoiser.draw_timestep, args)
        per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        if args.max_steps <= 0:
            args.max_steps = math.ceil(args.num_train_epochs * len(pairs) / per_step)

        # Model: the base frozen, the adapter trainable
        self.denoiser = denoiser
        if args.gradient_checkpointing:
            # The denoiser's own method; Trainer would look for that of a transformers model.
            denoiser.model.enable_gradient_checkpointing()
            args.gradient_checkpointing = False
        hold_base(denoiser.model, args)
        if ref_model is not None:
            hold_base(ref_model, args)
        # After that, because the precision of the base is a part of what it computes.
        self._network = module_hash(denoiser.model, _HASHED_VALUES)
        network = module_hash(ref_model or denoiser.model) if args.precompute_ref_losses else ""
        peft_config = peft_config or lora_config(4, 4, denoiser.target_modules)
        self._text_encoders: TextEncoderLoRA | None = None
        if args.train_text_encoder:
            compared = (pairs[0].unsafe_prompt, pairs[0].safe_prompt, "")
            self._text_encoders = TextEncoderLoRA(denoiser, encoded, compared, args)
            self._network += f" {self._text_encoders.identity}"
            self._maker.tokenize = self._eval_maker.tokenize = denoiser.tokenize
        policy = new_policy(denoiser.model, peft_config, args.seed)
        self._lora_layers = [module for module in policy.modules() if isinstance(module, BaseTunerLayer)]
        if args.bf16:
            keep_activations_low(self._lora_layers)
        if self._text_encoders is not None:
            self._text_encoders.add_to(policy, peft_config)
        if args.compile_repeated_blocks:
            compile_blocks(denoiser.model)
        self._ref_model = ref_model
        if ref_model is not None:
            ref_model.requires_grad_(False).eval().to(args.device)

        # Trainer
        super().__init__(
            model=policy,
            args=args,
            data_collator=self._maker,
            train_dataset=Numbers(args.max_steps * per_step),
            eval_dataset=Numbers(len(eval_pairs) * args.eval_draws) if eval_pairs else None,
            compute_metrics=self._eval_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
        )

        mend_callbacks(self.callback_handler.callbacks)
        if args.early_stopping_patience:
            self.add_callback(EarlyStopping(args.early_stopping_patience))

        # Reference: its errors on the fixed draws, once
        if args.precompute_ref_losses:
            self._maker.reference = self._precompute_reference(network, pairs, prior, encoded)

        # Metrics: a running sum on the device, read when it is logged
        self._metrics = logged_metrics(args)
        self._sums = torch.zeros(len(self._metrics), device=args.device)
        self._count = 0
        self.reference_gap: float | None = None
        self._partial: str | None = None

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As `transformers.Trainer.train`, after a look at the reference gap."""
        if self.args.gap_pairs and self.args.dpo_weight > 0:
            self.reference_gap = self.measure_reference_gap()
            beta, gap = self.args.beta, self.reference_gap
            text = f"reference gap mean |r_w - r_l| = {gap:.4g}; beta {beta:g}"
            # The rule of thumb is about losses that go flat.
            goes_flat = LOSSES[self.args.loss_type].saturates
            text += f", rule of thumb {suggested_beta(gap):.3g}" if goes_flat else ""
            if goes_flat and saturates(beta, gap):
                logger.warning(f"{text}: beta is so large that the preference term saturates; lower it")
            else:
                logger.info(text)
        return super().train(*args, **kwargs)

    @torch.no_grad()
    def measure_reference_gap(self) -> float:
        """Mean |r_w - r_l| of the reference's denoising errors over `gap_pairs` pairs, each with its own timestep."""
        gaps = []
        # No larger than a training step's, which is known to fit.
        size = min(_GAP_BATCH, self.args.per_device_train_batch_size)
        for numbers in chunks(list(range(self.args.gap_pairs)), size):
            batch = self._prepare_inputs(self._maker.gap_batch(numbers))
            noisy, target = self._noised(batch)
            error = denoising_error(self._reference(noisy, batch["timesteps"], batch["conditioning"]), target)
            gaps.append((error[: len(numbers)] - error[len(numbers) :]).abs())
        return float(torch.cat(gaps).mean())

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The weighted sum of preference term, winner's anchor and prior on one micro-batch of `BatchMaker`."""
        noisy, target = self._noised(inputs)
        # The reference first: nothing of it is kept for the backward pass.
        terms = (self._stored_terms if self.args.precompute_ref_losses else self._computed_terms)(noisy, target, inputs)
        if self.args.batch_slicing and torch.is_grad_enabled():
            trained = self.accelerator.unwrap_model(self.model).trained

            def predict(noisy: Tensor, timesteps: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
                return self._predict(model, noisy, {**inputs, "timesteps": timesteps, "conditioning": conditioning})

            loss, metrics, prediction = sliced_loss(self.args, predict, trained, noisy, target, terms, inputs)
        else:
            prediction = self._predict(model, noisy, inputs)
            error = denoising_error(prediction, target)
            loss, metrics = batch_loss(self.args, prediction, error, target, terms, inputs)
        with torch.no_grad():
            self._sums += metrics
        self._count += 1
        return (loss, {"prediction": prediction}) if return_outputs else loss

    def get_eval_dataloader(self, eval_dataset: Any = None) -> torch.utils.data.DataLoader:
        """The draws of the held-out pairs."""
        numbers = self.eval_dataset if eval_dataset is None else eval_dataset
        if not isinstance(numbers, Numbers):
            raise ConfigError("eval_dataset: give it when the trainer is made, so that it can be encoded")
        loader = torch.utils.data.DataLoader(
            numbers, batch_size=self.args.per_device_eval_batch_size, collate_fn=self._eval_maker.held_out_batch
        )
        return self.accelerator.prepare(loader)

    @torch.no_grad()
    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """Of held-out draws: the preference term (the winners' error where there is none), the margins of the rewards
        and the errors of winners and losers, and the shares of all these, each (numbers, sides)."""
        inputs = self._prepare_inputs(inputs)
        noisy, target = self._noised(inputs)
        terms = self._computed_terms(noisy, target, inputs)
        with self.compute_loss_context_manager():
            prediction = self._predict(model, noisy, inputs)
        errors, _ = pair_errors(self.args, prediction, denoising_error(prediction, target), target, terms, inputs)
        chosen, rejected = errors.rewards(self.args.beta)
        values = preference(self.args, errors) if self.args.dpo_weight > 0 else errors.chosen
        loss = weighted_mean(values, inputs["weights"])
        both = (chosen - rejected, errors.chosen, errors.rejected)
        sides = len(self._eval_maker.sides)
        return loss, tuple(some.view(-1, sides) for some in both), inputs["weights"].view(-1, sides)

    def _eval_metrics(self, outputs: EvalPrediction) -> dict[str, float]:
        return held_out_metrics(self.args, outputs.predictions, outputs.label_ids)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in Trainer, with the means of `METRICS` since the last call; the only place that waits for the device."""
        if "loss" in logs and self._count:
            sums = self.accelerator.reduce(self._sums, "mean")
            logs.update(zip(self._metrics, (sums / self._count).tolist(), strict=True))
            self._sums, self._count = torch.zeros_like(self._sums), 0
        super().log(logs, start_time)

    def _predict(self, model: nn.Module, noisy: Tensor, inputs: dict[str, Any]) -> Tensor:
        """The policy's prediction on a batch."""
        conditioning = inputs["conditioning"]
        if self._text_encoders is not None:
            conditioning = self._text_encoders.conditioning(inputs["tokens"], conditioning)
        return self.denoiser.predict(model, noisy, inputs["timesteps"], conditioning)

    def _noised(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The noisy latents and the target of a batch."""
        latents = self.denoiser.latents(inputs["moments"], inputs.get("posterior_noise"))
        noise, timesteps = inputs["noise"], inputs["timesteps"]
        return self.denoiser.add_noise(latents, noise, timesteps), self.denoiser.target(latents, noise, timesteps)

    def _stored_terms(self, noisy: Tensor, target: Tensor, inputs: dict[str, Any]) -> ReferenceTerms:
        """The reference's part of a batch of fixed draws, as `precompute_ref_losses` has put it there."""
        anchor = inputs.get("ref_anchor", target[: len(inputs["weights"])])
        return ReferenceTerms(inputs.get("ref_errors"), None, anchor, inputs.get("ref_prior"))

    def _computed_terms(self, noisy: Tensor, target: Tensor, inputs: dict[str, Any]) -> ReferenceTerms:
        """The reference's part of a batch, computed here."""
        pairs = len(inputs["weights"])
        # The reference sees the pairs only where a loss compares with it; the prior always does.
        first = 0 if compares(self.args) else 2 * pairs
        reference = self._reference_from(first, noisy, inputs)
        anchor = self._anchor(noisy, target, inputs)
        if reference is None:
            return ReferenceTerms(None, None, anchor, None)
        prior = reference[2 * pairs - first :]
        if first:
            return ReferenceTerms(None, None, anchor, prior)
        return ReferenceTerms(denoising_error(reference, target)[: 2 * pairs], reference[:pairs], anchor, prior)

    def _precompute_reference(
        self, network: str, pairs: Sequence[Pair], prior: Sequence[Picture], encoded: EncodedPairs
    ) -> ReferenceCache:
        """The reference on the fixed draws, stored beside what is `encoded`."""
        args, maker = self.args, self._maker

        @torch.no_grad()
        def forward(draws: Sequence[Draw]) -> tuple[Tensor, Tensor]:
            batch = self._prepare_inputs(maker.stack(draws))
            noisy, target = self._noised(batch)
            return self._reference(noisy, batch["timesteps"], batch["conditioning"]), target

        probe = self._noised(self._prepare_inputs(maker.probe(pairs[0])))
        identity = reference_identity(
            network,
            encoded.identity,
            denoising_hash(*probe),
            (self.accelerator.mixed_precision, args.device.type, args.channels_last, args.compile_repeated_blocks),
            (maker.fixed_seed, args.ref_draws, args.prompt_dropout, args.prior_empty_share),
        )
        cache = ReferenceCache(encoded.folder / "reference", identity, maker, forward, args)
        # The others find on disk what the first process has computed.
        with args.main_process_first(local=False, desc="reference errors"):
            cache.fill(pairs, prior)
        return cache

    def _anchor(self, noisy: Tensor, target: Tensor, inputs: dict[str, Any]) -> Tensor:
        """What the policy's prediction on the winners, or on all pictures of the pairs, is drawn to:
        `DiffusionDPOConfig.sft_target`."""
        if "anchor_conditioning" not in inputs:
            return target[: len(inputs["weights"])]
        rows = len(next(iter(inputs["anchor_conditioning"].values())))
        return self._reference(noisy[:rows], inputs["timesteps"][:rows], inputs["anchor_conditioning"])

    def _reference_from(self, first: int, noisy: Tensor, inputs: dict[str, Any]) -> Tensor | None:
        """The reference's predictions on a batch from row `first` on; None where that is nothing."""
        if first >= len(noisy):
            return None
        conditioning = {name: value[first:] for name, value in inputs["conditioning"].items()}
        return self._reference(noisy[first:], inputs["timesteps"][first:], conditioning)

    def _reference(self, noisy: Tensor, timesteps: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        model: nn.Module = self.accelerator.unwrap_model(self.model) if self._ref_model is None else self._ref_model
        with torch.no_grad(), adapter_off(self._lora_layers), self.accelerator.autocast():
            predict = partial(self.denoiser.predict, model)
            if self.args.batch_slicing:
                # In the policy's batches of one, so that where both agree they agree to the last bit.
                return one_by_one(predict, noisy, timesteps, conditioning)
            return predict(noisy, timesteps, conditioning)

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler:
        # The draws are shuffled by number already.
        return torch.utils.data.SequentialSampler(train_dataset or self.train_dataset)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.args.should_save:
            folder, component = output_dir or self.args.output_dir, self.denoiser.component
            save_lora(folder, self.accelerator.unwrap_model(self.model), component=component)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        path = Path(resume_from_checkpoint) / _METRICS_FILE
        if not path.is_file():
            raise ConfigError(f"{resume_from_checkpoint}: no {_METRICS_FILE}, so no checkpoint of this trainer")
        metrics = json.loads(path.read_text("utf8"))
        if metrics.get("network") != self._network:
            raise ConfigError(
                f"{resume_from_checkpoint}: made on another base model, in another precision or with another "
                "train_text_encoder; resume with that one, or start in another output_dir"
            )
        if len(metrics["sums"]) != len(self._metrics):
            raise ConfigError(
                f"{resume_from_checkpoint}: {len(metrics['sums'])} metrics, this run logs {len(self._metrics)}; resume "
                f"it with the loss_type, dpo_weight and safeguard_mu that it was made with"
            )
        load_stream(self._maker, resume_from_checkpoint, self.args.process_index)
        load_into(self.accelerator.unwrap_model(model or self.model), load_lora(resume_from_checkpoint))
        self._sums, self._count = torch.tensor(metrics["sums"], device=self.args.device), metrics["count"]

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # A run that was cut off after it had stopped is not to take one more step.
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def _load_best_model(self) -> None:
        load_into(self.accelerator.unwrap_model(self.model), load_lora(self.state.best_model_checkpoint))

    def _get_output_dir(self, trial: Any) -> str:
        return self._partial or super()._get_output_dir(trial)

    def _save_rng_state(self, output_dir: str) -> None:
        # The state that each process has of its own.
        super()._save_rng_state(output_dir)
        save_stream(self._maker, output_dir, self.args.process_index)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As in Trainer, but a checkpoint appears under its name only when it is whole, whenever the run is killed."""
        final = Path(super()._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        self._partial = str(final.parent / "partial")
        if self.args.should_save:
            shutil.rmtree(self._partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(model, trial)
        finally:
            partial, self._partial = Path(self._partial), None
        # Every process goes on from the mean of all, whose mean is the same again.
        sums = self.accelerator.reduce(self._sums, "mean")
        if not self.args.should_save:
            return
        best = final.parent / f"checkpoint-{self.state.best_global_step}"
        if self.state.best_global_step and (best == final or best.exists()):
            self.state.best_model_checkpoint = str(best)
            self.state.save_to_json(str(partial / final.name / TRAINER_STATE_NAME))
        metrics = {"sums": sums.tolist(), "count": self._count, "network": self._network}
        write_atomically(partial / final.name / _METRICS_FILE, json.dumps(metrics).encode())
        if final.exists():
            shutil.rmtree(final)
        os.replace(partial / final.name, final)
        shutil.rmtree(partial)
        kept = sorted(final.parent.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
        for old in kept[: -self.args.save_total_limit] if self.args.save_total_limit else []:
            if str(old) != self.state.best_model_checkpoint:
                shutil.rmtree(old)


def lora_config(rank: int, alpha: float, target_modules: Collection[str]) -> LoraConfig:
    """A LoRA on layers whose names are, or end in, `target_modules`; A starts Gaussian, B at 0."""
    return LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=sorted(target_modules))
