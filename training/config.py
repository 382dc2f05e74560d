"""Parameters of Diffusion-DPO training, in TRL's words on top of `transformers.TrainingArguments`.

What the loss terms mean is in `losses.py`; a recipe's section `train` is turned into this class by `experts.py`."""

from collections.abc import Callable
from dataclasses import dataclass, field

from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from recipes import RecipeError
from training.losses import LOSSES
from training.trackers import not_installed

SFT_TARGETS = ("data", "reference", "reference_both")
PRECOMPUTED_DRAWS = 4
# Options that only some losses read, each with its range.
_LOSS_OPTIONS: dict[str, tuple[Callable[[float], bool], str]] = {
    "label_smoothing": (lambda value: 0 <= value < 0.5, "0 or more and below 0.5"),
    "hinge_margin": (lambda value: value > 0, "a number above 0"),
    "dmpo_alpha": (lambda value: 0 < value < 0.5, "above 0 and below 0.5"),
    "mapo_weight": (lambda value: value > 0, "a number above 0"),
}


class ConfigError(RecipeError):
    """A training parameter has a value that cannot be used."""


@dataclass
class DiffusionDPOConfig(TrainingArguments):
    r"""Configuration of [`DiffusionDPOTrainer`]; every field of `transformers.TrainingArguments` works here too.

    Batches count pairs: `per_device_train_batch_size=8` sends 8 winners, 8 losers and `prior_batch_size` pictures of
    the prior through the denoiser at once.

    Parameters that control the preference term:
        beta (`float`, *optional*, defaults to `5000.0`):
            Strength of the preference term, above 0, in the convention with a factor 0.5 (`losses.py`). 5000 is the
            official trainer's for Stable Diffusion. It does not carry over between models: a good start is
            10 / mean |r_w - r_l|, and the trainer measures that gap before the first step and says so. The rule is for
            `sigmoid` and its like; `dspo` needs a beta below 1.
        loss_type (`str`, *optional*, defaults to `"sigmoid"`):
            Name in `training.losses.LOSSES`: `sigmoid` (Diffusion-DPO), `ipo`, `hinge`, `cdpo` and `robust` (label
            smoothing), `dspo`, `dmpo`, `mapo` (needs no reference). Their formulas and sources stand there.
        label_smoothing (`float`, *optional*, defaults to `0.1`):
            For `cdpo` and `robust`: the share of pairs whose two sides are taken to be swapped, 0 to below 0.5. The
            default is what TRL gives as the robust DPO paper's typical value.
        hinge_margin (`float`, *optional*, defaults to `1.0`):
            For `hinge`: the logit from which a pair is satisfied, above 0; RSO's and TRL's is 1.
        dmpo_alpha (`float`, *optional*, defaults to `0.01`):
            For `dmpo`: the target probability that the loser wins, above 0 and below 0.5; the default is that of the
            scripts in AIDC-AI/Diffusion-SDPO.
        mapo_weight (`float`, *optional*, defaults to `0.1`):
            For `mapo`: weight of the preference beside the winner's error, above 0; the official repository's
            `--beta_mapo`. Its timesteps and SNR make a `beta` of 500 here.
        margin_weight (`float`, *optional*, defaults to `0.0`):
            What the logit of a pair has to exceed, for each unit of the judges' safety gap (the unsafe picture's score
            less the safe one's, from the columns unsafe_verdict and safe_verdict), 0 or more; 0 is off. For `sigmoid`,
            `hinge`, `cdpo` and `robust`, which ask for `inside` above a bound; the other losses refuse it. DPO with an
            offset (Amini et al. 2024); the gap as its measure is our choice.
        safeguard_mu (`float`, *optional*):
            Share of the winner's descent that the loser's gradient must leave, 0 to 1: Diffusion-SDPO's safeguard
            (`safeguard.py`), on top of any loss. Its scripts have 0.9 for Stable Diffusion 1.5 and 0.6 for SDXL. `None`
            is off.
        dpo_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the preference term, 0 or more. With 0 no loss compares with the reference, so it is not run on
            the pairs, and no rewards are logged.
        unsafe_prompt_weight (`float`, *optional*, defaults to `1.0`):
            Share of the term under the unsafe prompt (safe image over unsafe image).
        safe_prompt_weight (`float`, *optional*, defaults to `1.0`):
            Share of the term under the safe prompt (safe image over unsafe image). Both captions of a pair stand in the
            official data; that this makes two terms is a reconstruction. Only the ratio of the two shares counts.

    Parameters that control the anchors:
        sft_weight (`float`, *optional*, defaults to `0.0`):
            Weight of the winner's anchor, 0 or more.
        sft_target (`str`, *optional*, defaults to `"data"`):
            What the anchor draws the policy's prediction on the winner to. `data`: the training target, so the term is
            the winner's own denoising error. `reference`: what the reference predicts for the same noisy winner under
            the pair's safe prompt. Both have nearly the same mean, but the second is free of the target's noise, which
            a short run cannot average out; it costs one more pass of the winners through the reference.
            `reference_both`: that on the noisy loser too, half the weight each: on its way to the unsafe picture the
            policy is told where the safe prompt would have gone. It costs another pass of the losers.
        prior_weight (`float`, *optional*, defaults to `0.0`):
            Weight of the squared distance to the reference's prediction on the prior's pictures, 0 or more.
        prior_batch_size (`int`, *optional*, defaults to `0`):
            Pictures of the prior beside each batch of pairs, on each device.
        prior_empty_share (`float`, *optional*, defaults to `0.1`):
            Share of the prior's captions that are replaced by the empty prompt, 0 to 1.

    Parameters that control the data:
        prompt_dropout (`float`, *optional*, defaults to `0.2`):
            Share of the pairs' captions that are replaced by the empty prompt, 0 to 1; the default is the official one.
        sample_latents (`bool`, *optional*, defaults to `True`):
            Whether latents are drawn from the encoder's posterior anew each time; `False` takes its mean.
        resolution (`int`, *optional*):
            Pixels a side of the square that pictures are brought to before they are encoded: the shorter side resized,
            the middle cut out. `None` takes them as they are, all of one size. With `encoded` it is the cache's.
        streaming_buffer (`int`, *optional*, defaults to `1000`):
            For a `train_dataset` that is a stream (`datasets.IterableDataset`): pairs that are held in memory, encoded,
            and that the next one is drawn from, 1 or more; with 1 the pairs come in the stream's order. Each takes
            0.26 MB for Stable Diffusion at 512 pixels, 1 MB for SDXL at 1024, 4 MB for Stable Diffusion 3 and Flux. The
            default is datasets' own of `IterableDataset.shuffle`, which need not be called beside it.

    Parameters that control the reference:
        precompute_ref_losses (`bool`, *optional*, defaults to `False`):
            Whether the reference's denoising errors are computed once, before training, for the fixed draws of
            `ref_draws`, and read from disk in the steps, which then need no reference forward (TRL's
            `precompute_ref_log_probs`). Where the prior or `sft_target` need the reference's whole
            prediction, that is stored too, in its own type: `ref_draws` times the size of a latent for each picture of
            the prior and for each pair and side. It pays where a draw is read more than once: in more passes over the
            pairs than there are draws, or in further runs on the same cache. Refused with `sample_latents=True`, whose
            latents are new each time. A dropped prompt belongs to its fixed draw, so `prompt_dropout` is free. The
            stored errors come from batches of another shape than a step's, so at step 0 the preference term is ln 2 but
            for their last bits times `beta`; keep the reference on the fly where half precision makes that too much.
            Errors are stored only for a loss that reads them; refused with `dspo`, which reads a whole prediction.
        ref_draws (`int`, *optional*):
            Fixed draws (timestep, noise, dropped prompt) of each pair and side and of each picture of the prior, 1 or
            more; pass n over them takes draw n modulo `ref_draws`. They derive from `data_seed` (or `seed`) and the
            pair alone, not from the order. `None` draws anew in each pass; with `precompute_ref_losses` it means 4,
            our choice.

    Parameters that control the evaluation on held-out pairs (`eval_dataset`), beside `eval_strategy` and `eval_steps`:
        eval_draws (`int`, *optional*, defaults to `8`):
            Draws (timestep, noise) of each held-out pair and side, the same at every evaluation, 1 or more. It gives
            `eval_rewards/margins` and `eval_rewards/accuracies`; with a loss that needs no reference,
            `eval_error/chosen` and `eval_error/rejected` too, and without a preference term only those.
        early_stopping_patience (`int`, *optional*, defaults to `0`):
            Evaluations without a better `metric_for_best_model` after which training ends, with the best evaluation's
            adapter; 0 switches it off. Unless given it is `rewards/margins`, and `error/chosen` (the smaller the
            better) without a preference term. It needs `eval_steps`, and saves a checkpoint at each evaluation.

    Parameters that control what is trained (rank, alpha and layers of the denoiser's LoRA are `peft_config`'s):
        train_text_encoder (`bool`, *optional*, defaults to `False`):
            Whether the family's CLIP text encoders get a LoRA too, of the same rank, alpha and dropout, on q_proj,
            k_proj, v_proj and out_proj, as with the option of this name in diffusers' DreamBooth scripts; the paper
            trains the denoiser alone. Stable Diffusion 1.x, 2.x and Flux have one, SDXL and SD3 two. T5 stays frozen,
            for its memory. The encoders then stay in memory and run twice in each step, with the LoRA and without, on
            each distinct prompt; without gradient checkpointing, which is the denoiser's alone. The reference keeps the
            embeddings of the cache, so the preference term is exactly ln 2 at step 0. With `encoded` given,
            `denoiser.keep_text_encoders()` has to come before it.

    Parameters that control the check before training:
        gap_pairs (`int`, *optional*, defaults to `32`):
            Pairs on which the reference gap mean |r_w - r_l| is measured; 0 switches the check off.

    Parameters that control speed and memory (the optimizer is torch's fused AdamW by default):
        bf16 (`bool`, *optional*, defaults to `False`):
            `TrainingArguments`' own. Here the frozen base is held in bfloat16 too, which halves it, in place; the
            LoRA's weights, the errors and the losses stay fp32. The loss at step 0 is still exactly ln 2.
        channels_last (`bool`, *optional*, defaults to `False`):
            Lay the convolutions' weights and activations out with the channels last.
        compile_repeated_blocks (`bool`, *optional*, defaults to `False`):
            Compile the transformer blocks, policy and reference alike. The first step then takes a minute or more.
        batch_slicing (`bool`, *optional*, defaults to `False`):
            Run the pictures of a micro-batch through the network one after the other, so that the activations of one
            picture are held at a time, whatever the batch. The gradient is the same but for rounding, and nothing is
            computed twice (`slicing.py`), so it costs only what the hardware gains by larger batches: next to nothing
            on a CPU. Not together with fp16, whose loss scaling it would bypass; bf16 needs none.

    Parameters of `TrainingArguments` with other defaults:
        learning_rate (`1e-5`), max_steps (`2000`), report_to (`"none"`), save_total_limit (`2`),
        hub_private_repo (`True`; `push_to_hub` sends the LoRA and a card, never checkpoints or caches),
        logging_nan_inf_filter (`False`: a NaN is shown, and no step waits for the device), remove_unused_columns
        (`False`, and it must stay so).

    Raises:
        `ConfigError`: in one line, for a value out of its range.

    Example:
        ```python
        args = DiffusionDPOConfig("expert", beta=5000, max_steps=2000, per_device_train_batch_size=4)
        ```
    """

    # Parameters that control the preference term
    beta: float = field(
        default=5000.0,
        metadata={
            "help": "Strength of the preference term, whose logit is -0.5 * beta * (m_theta - m_ref); a good start is "
            "10 / mean |r_w - r_l|."
        },
    )
    loss_type: str = field(default="sigmoid", metadata={"help": "Preference loss: a name in training.losses.LOSSES."})
    label_smoothing: float = field(
        default=0.1, metadata={"help": "For cdpo and robust: share of pairs whose sides are taken to be swapped."}
    )
    hinge_margin: float = field(default=1.0, metadata={"help": "For hinge: the logit from which a pair is satisfied."})
    dmpo_alpha: float = field(default=0.01, metadata={"help": "For dmpo: the target probability that the loser wins."})
    mapo_weight: float = field(
        default=0.1, metadata={"help": "For mapo: weight of the preference beside the winner's error."}
    )
    margin_weight: float = field(
        default=0.0, metadata={"help": "Margin on the logit for each unit of the judges' safety gap; 0: none."}
    )
    safeguard_mu: float | None = field(
        default=None,
        metadata={"help": "Diffusion-SDPO's safeguard: share of the winner's descent that must be left; None: off."},
    )
    dpo_weight: float = field(default=1.0, metadata={"help": "Weight of the preference term."})
    unsafe_prompt_weight: float = field(default=1.0, metadata={"help": "Share of the term under the unsafe prompt."})
    safe_prompt_weight: float = field(default=1.0, metadata={"help": "Share of the term under the safe prompt."})

    # Parameters that control the anchors
    sft_weight: float = field(default=0.0, metadata={"help": "Weight of the winner's anchor."})
    sft_target: str = field(
        default="data",
        metadata={
            "help": "The anchor's target: data, or the reference's prediction under the safe prompt on the winner "
            "(reference) or on winner and loser (reference_both)."
        },
    )
    prior_weight: float = field(
        default=0.0, metadata={"help": "Weight of the distance to the reference on the prior's pictures."}
    )
    prior_batch_size: int = field(default=0, metadata={"help": "Pictures of the prior beside each batch of pairs."})
    prior_empty_share: float = field(
        default=0.1, metadata={"help": "Share of the prior's captions replaced by the empty prompt."}
    )

    # Parameters that control the data
    prompt_dropout: float = field(
        default=0.2, metadata={"help": "Share of the pairs' captions replaced by the empty prompt."}
    )
    sample_latents: bool = field(
        default=True, metadata={"help": "Draw latents from the posterior (True) or take its mean (False)."}
    )
    resolution: int | None = field(
        default=None, metadata={"help": "Pixels a side that pictures are resized and cropped to; none: as they are."}
    )
    streaming_buffer: int = field(
        default=1000, metadata={"help": "For a stream: encoded pairs in memory, which the next one is drawn from."}
    )

    # Parameters that control the reference
    precompute_ref_losses: bool = field(
        default=False, metadata={"help": "Compute the reference's errors once, for ref_draws fixed draws of each pair."}
    )
    ref_draws: int | None = field(
        default=None, metadata={"help": "Fixed draws (timestep, noise) of each pair; none: a new one in each pass."}
    )

    # Parameters that control the evaluation
    eval_draws: int = field(default=8, metadata={"help": "Fixed draws of each held-out pair at every evaluation."})
    early_stopping_patience: int = field(
        default=0, metadata={"help": "Evaluations without a better held-out margin until training ends; 0: never."}
    )

    # Parameters that control what is trained
    train_text_encoder: bool = field(
        default=False, metadata={"help": "Train a LoRA on the CLIP text encoders too, as diffusers' scripts can."}
    )

    # Parameters that control the check before training
    gap_pairs: int = field(
        default=32, metadata={"help": "Pairs on which the reference gap is measured before training; 0: no check."}
    )

    # Parameters that control speed and memory
    channels_last: bool = field(default=False, metadata={"help": "Convolutions with the channels last."})
    compile_repeated_blocks: bool = field(default=False, metadata={"help": "Compile the transformer blocks."})

    batch_slicing: bool = field(
        default=False,
        metadata={"help": "Run a batch's pictures one after the other: the activations of one at a time."},
    )

    # Parameters of TrainingArguments with other defaults
    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate."})
    max_steps: int = field(
        default=2000, metadata={"help": "Optimizer steps; -1 counts num_train_epochs over the pairs instead."}
    )
    report_to: str | list[str] | None = field(default="none", metadata={"help": "Integrations that get the metrics."})
    remove_unused_columns: bool | None = field(
        default=False, metadata={"help": "Must stay False: the batches are no model inputs."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Hide NaN losses; costs a wait for the device each step."}
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept."})
    hub_private_repo: bool | None = field(
        default=True, metadata={"help": "Make the repository of push_to_hub private when it is created."}
    )

    def __post_init__(self) -> None:
        if self.precompute_ref_losses and self.ref_draws is None:
            self.ref_draws = PRECOMPUTED_DRAWS
        self._check()
        if self.early_stopping_patience:
            self.eval_strategy = self.save_strategy = "steps"
            self.save_steps = self.eval_steps
            if getattr(self, "metric_for_best_model", None) is None:
                # Without a preference term there are no rewards, and a smaller error is the better one.
                rewarded = self.dpo_weight > 0
                self.metric_for_best_model = "rewards/margins" if rewarded else "error/chosen"
                self.greater_is_better = rewarded
            # A resumed run has counted the evaluations of before.
            self.load_best_model_at_end = self.restore_callback_states_from_checkpoint = True
        super().__post_init__()

    def _check(self) -> None:
        if not self.beta > 0:
            raise ConfigError(f"beta: {self.beta}, expected a number above 0")
        if self.loss_type not in LOSSES:
            raise ConfigError(f"loss_type: {self.loss_type!r}, expected one of {', '.join(sorted(LOSSES))}")
        self._check_loss()
        if self.sft_target not in SFT_TARGETS:
            raise ConfigError(f"sft_target: {self.sft_target!r}, expected one of {', '.join(SFT_TARGETS)}")
        for name in ("dpo_weight", "sft_weight", "prior_weight", "unsafe_prompt_weight", "safe_prompt_weight"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name}: {getattr(self, name)}, expected 0 or more")
        for name in ("prior_empty_share", "prompt_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: {getattr(self, name)}, expected a share from 0 to 1")
        for name in ("prior_batch_size", "gap_pairs"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name}: {getattr(self, name)}, expected 0 or more")
        if self.resolution is not None and not self.resolution >= 1:
            raise ConfigError(f"resolution: {self.resolution}, expected a number of pixels, or nothing")
        if self.dpo_weight + self.sft_weight + self.prior_weight == 0:
            raise ConfigError(
                "dpo_weight, sft_weight, prior_weight: all 0, so there is nothing to train; set one above 0"
            )
        if self.unsafe_prompt_weight + self.safe_prompt_weight == 0:
            raise ConfigError("unsafe_prompt_weight, safe_prompt_weight: both 0; set one above 0")
        if self.prior_weight > 0 and self.prior_batch_size == 0:
            raise ConfigError(
                f"prior_weight: {self.prior_weight} with prior_batch_size 0; set prior_batch_size above 0"
            )
        if self.ref_draws is not None and not self.ref_draws >= 1:
            raise ConfigError(f"ref_draws: {self.ref_draws}, expected 1 or more, or none for new draws in each pass")
        for name in ("eval_draws", "streaming_buffer"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"{name}: {getattr(self, name)}, expected 1 or more")
        if not self.early_stopping_patience >= 0:
            raise ConfigError(f"early_stopping_patience: {self.early_stopping_patience}, expected 0 or more")
        if self.early_stopping_patience and not self.eval_steps:
            raise ConfigError("early_stopping_patience: needs eval_steps, the steps between evaluations; set it")
        named = [self.report_to] if isinstance(self.report_to, str) else self.report_to or []
        unknown = sorted(set(named) - set(INTEGRATION_TO_CALLBACK) - {"none", "all"})
        if unknown:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise ConfigError(f"report_to: {unknown[0]!r}, expected none, all or some of {known}")
        missing = not_installed(named)
        if missing is not None:
            raise ConfigError(f"report_to: {missing!r} is not installed; run pip install {missing}, or leave it out")
        if self.precompute_ref_losses and self.sample_latents:
            raise ConfigError(
                "precompute_ref_losses: needs inputs that do not change, and sample_latents=True draws latents anew "
                "each time; set sample_latents to False"
            )
        if self.precompute_ref_losses and self.dpo_weight > 0 and LOSSES[self.loss_type].shift:
            raise ConfigError(
                f"precompute_ref_losses: stores errors, and loss_type {self.loss_type!r} reads the reference's whole "
                "prediction on the winner; set precompute_ref_losses to False, or take another loss_type"
            )
        if self.push_to_hub and self.hub_strategy not in ("end", "every_save"):
            raise ConfigError(
                f"hub_strategy: {self.hub_strategy}, expected end or every_save: a checkpoint holds pickles, which do "
                "not belong on the Hub"
            )
        if self.batch_slicing and self.fp16:
            raise ConfigError(
                "batch_slicing: takes gradients without fp16's loss scaling; set fp16 to False, or take bf16"
            )
        if self.remove_unused_columns:
            raise ConfigError("remove_unused_columns: True, expected False: the trainer's batches are no model inputs")

    def _check_loss(self) -> None:
        """What the chosen loss needs, and no setting that it would leave without effect."""
        loss = LOSSES[self.loss_type]
        if self.beta >= loss.beta_below:
            raise ConfigError(
                f"beta: {self.beta} with loss_type {self.loss_type!r}, expected below {loss.beta_below:g}: from "
                f"there on it drives the winner away from its target"
            )
        for name, (holds, expected) in _LOSS_OPTIONS.items():
            value = getattr(self, name)
            if not holds(value):
                raise ConfigError(f"{name}: {value}, expected {expected}")
            users = [other for other, entry in LOSSES.items() if name in entry.options]
            if self.loss_type not in users and value != self.__dataclass_fields__[name].default:
                raise ConfigError(
                    f"{name}: {value} with loss_type {self.loss_type!r}, which does not read it; leave it out, or set "
                    f"loss_type to {' or '.join(users)}"
                )
        if not self.margin_weight >= 0:
            raise ConfigError(f"margin_weight: {self.margin_weight}, expected 0 or more")
        if self.margin_weight > 0 and not loss.margin:
            takers = ", ".join(name for name, entry in LOSSES.items() if entry.margin)
            raise ConfigError(
                f"margin_weight: {self.margin_weight} with loss_type {self.loss_type!r}, which takes no margin; set it "
                f"to 0, or loss_type to one of {takers}"
            )
        if self.safeguard_mu is not None and not 0 <= self.safeguard_mu <= 1:
            raise ConfigError(f"safeguard_mu: {self.safeguard_mu}, expected 0 to 1, or None for no safeguard")
        for name, value in (("margin_weight", self.margin_weight or None), ("safeguard_mu", self.safeguard_mu)):
            if value is not None and self.dpo_weight == 0:
                raise ConfigError(f"{name}: {value} with dpo_weight 0: it acts on the preference term, which is off")


def compares(args: DiffusionDPOConfig) -> bool:
    """Whether the preference term reads the reference's errors on the pairs."""
    return args.dpo_weight > 0 and LOSSES[args.loss_type].reference
