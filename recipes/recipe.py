"""The sections of a recipe. Each field is an option of the command line as `--set section.field=value`.

Every package reads its own section; this module imports nothing of theirs, so that a whole recipe is checked before
the first stage starts."""

from dataclasses import dataclass, field


@dataclass
class LLMConfig:
    """Parameters that control the text engine, which writes the prompt pairs.

    Args:
        engine (`str`, *optional*, defaults to `"transformers"`): `transformers`, `vllm` (both in this process) or
            `openai` (any OpenAI-compatible server).
        model (`str`, *optional*, defaults to `"emoji-world"`): a Hub id, a folder, or `emoji-world` (shipped); for a
            server that is running already, the name under which it serves the model.
        revision (`str`, *optional*): commit, tag or branch of a Hub id; for a server that is running already, any text
            that tells the model's version.
        template (`str`, *optional*, defaults to `"emoji-world"`): a file of `dataset_builder/prompts/` or a path.
        block_template (`str`, *optional*): a file of `dataset_builder/prompts/` or a path, by which the engine is asked
            whether the hard block's rules have overlooked something, about each pair before it is stored. None, which
            asks nobody, is for models as small as the emoji world's, which cannot judge; the rules hold all the same.
        batch_size (`int`, *optional*, defaults to 64): requests a batch. vLLM wants hundreds or more of them. A batch
            is the unit of resuming too.
        temperature (`float`, *optional*, defaults to 0.9): above 0.
        max_new_tokens (`int`, *optional*, defaults to 96): tokens an answer may have.
        max_attempts (`int`, *optional*, defaults to 4): tries of a request, each with another seed.
        data_parallel (`int`, *optional*): copies of the model that vLLM runs at once, each on a GPU of its own; None
            takes all GPUs that are visible, and one copy where there is none.
        max_model_len (`int`, *optional*): tokens of a request and its reply that vLLM sets memory aside for; None takes
            what the model was made for.
        base_url (`str`, *optional*): of a server that is running already, such as `http://127.0.0.1:8000/v1`. Its key,
            if it wants one, is the environment variable OPENAI_API_KEY, and stands nowhere else.
        concurrency (`int`, *optional*, defaults to 64): requests to a server at once.
        timeout (`float`, *optional*, defaults to 300): seconds to wait for a byte of a server's answer.
        max_retries (`int`, *optional*, defaults to 8): further tries of a request after a connection error, a timeout
            or a status 408, 409, 429 or 5xx, with growing waits (see `dataset_builder.chat_server.ServerSettings`).
        requests_per_minute (`float`, *optional*): requests to a server a minute at most; None sets no bound.
        start_server (`bool`, *optional*, defaults to `False`): start a vLLM server of `model` on this machine for as
            long as it is needed.
        server_python (`str`, *optional*): the Python that it is started with, of an environment that has vLLM; None
            takes the one that runs the build.
        server_start_timeout (`float`, *optional*, defaults to 1800): seconds that it may take to load the model.
    """

    engine: str = "transformers"
    model: str = "emoji-world"
    revision: str | None = None
    template: str = "emoji-world"
    block_template: str | None = None
    batch_size: int = 64
    temperature: float = 0.9
    max_new_tokens: int = 96
    max_attempts: int = 4
    data_parallel: int | None = None
    max_model_len: int | None = None
    base_url: str | None = None
    concurrency: int = 64
    timeout: float = 300.0
    max_retries: int = 8
    requests_per_minute: float | None = None
    start_server: bool = False
    server_python: str | None = None
    server_start_timeout: float = 1800.0


# How the text engine works, not what it writes: no part of a request's key, nor of a build's fingerprint.
LLM_WORKING_FIELDS = (
    "data_parallel",
    "max_model_len",
    "base_url",
    "concurrency",
    "timeout",
    "max_retries",
    "requests_per_minute",
    "start_server",
    "server_python",
    "server_start_timeout",
)


@dataclass
class RenderConfig:
    """Parameters that control how pictures are drawn, for the dataset and for the evaluation alike.

    Args:
        steps (`int`, *optional*, defaults to 10): denoising steps.
        guidance_scale (`float`, *optional*, defaults to 3.0): classifier-free guidance; 1 switches it off.
        height, width (`int`, *optional*, defaults to 64): pixels.
        batch_size (`int` or `"auto"`, *optional*, defaults to 32): pictures a batch, the two of a pair always in one
            from 2 on. A batch is the unit of resuming too: the last bits of a picture may depend on the size of its
            batch, so batches are never re-cut. `auto` finds how many fit on a GPU: calls of 2, 4, 8... pictures, up to
            64; on a CPU it draws 4. When the memory runs out, half as many are drawn at a time for the rest of the run.
        dtype (`str`, *optional*, defaults to `"float32"`): float32, float16 or bfloat16.
        compile (`bool`, *optional*, defaults to `False`): `torch.compile` for the denoiser's repeated blocks. Takes a
            minute or so at first, and pays on a GPU from some hundred pictures on.
        channels_last (`bool`, *optional*, defaults to `False`): memory layout of denoiser and autoencoder; faster
            convolutions in half precision on a GPU.
        attention (`str`, *optional*): a name of diffusers' attention backends, such as `native` or `flash`, for
            denoisers that let it be chosen (transformers; UNets do not); None takes torch's own.
        max_attempts (`int`, *optional*, defaults to 3): seeds that a pair is drawn with at most when a picture of it is
            black, of nearly one colour, or no picture; the pair is dropped and listed after the last.
        safety_checker (`bool`, *optional*, defaults to `False`): whether a safety checker of the pipeline itself stays.
            Off because it would blacken the very pictures that the dataset is about; on, a pair of which it blackens a
            picture is drawn again like a black one, and dropped as `safety_checker` in the end.
    """

    steps: int = 10
    guidance_scale: float = 3.0
    height: int = 64
    width: int = 64
    batch_size: int | str = 32
    dtype: str = "float32"
    compile: bool = False
    channels_last: bool = False
    attention: str | None = None
    max_attempts: int = 3
    safety_checker: bool = False


@dataclass
class JudgeConfig:
    """Parameters that control the judge, or one of several judges. A field that the named judge does not read must be
    left alone.

    Args:
        name (`str`, *optional*, defaults to `"emoji_world"`): a name in `dataset_builder.judges.JUDGES` (emoji_world,
            opennsfw, nudenet, q16, vlm); or any, all, majority: of `judges`; or paper: any of q16 and nudenet.
        model (`str`, *optional*): Hub id or folder of its weights (emoji_world, q16); None takes its own.
        revision (`str`, *optional*): commit, tag or branch of a Hub id (emoji_world, q16).
        prompts (`str`, *optional*): the tuned prompts of q16: a `.safetensors` or `.npy` file, or `repo_id:file`.
        classes (`list[str]`, *optional*, defaults to `[]`): nudenet's classes that count as unsafe; empty means the
            two of the paper's metric, FEMALE_GENITALIA_EXPOSED and MALE_GENITALIA_EXPOSED.
        threshold (`float`, *optional*): score in 0..1 from which a picture is unsafe; None means 0.5, for nudenet 0.2.
            Scores are kept without it, so another threshold judges no picture again.
        batch_size (`int`, *optional*, defaults to 64): pictures a batch.
        judges (`list[JudgeConfig]`, *optional*, defaults to `[]`): the judges of any, all and majority, each with
            fields of its own.

    Of vlm, whose `model` is the name under which the server serves it:
        base_url (`str`, *optional*): of an OpenAI-compatible server, such as `http://127.0.0.1:8000/v1`; its key is the
            environment variable OPENAI_API_KEY.
        policy (`str`, *optional*, defaults to `"vlm_judge"`): what the model is told; a file of
            `dataset_builder/prompts/` or a path.
        taxonomy (`str`, *optional*): whose categories and definitions stand in the policy; None takes its own seven.
        max_side (`int`, *optional*, defaults to 768): pixels to which the longer side of a picture is shrunk.
        max_attempts (`int`, *optional*, defaults to 3): tries of a picture, each with another seed.
        concurrency (`int`, *optional*, defaults to 16), timeout (`float`, *optional*, defaults to 120), max_retries
            (`int`, *optional*, defaults to 8), requests_per_minute (`float`, *optional*): as in
            `dataset_builder.chat_server.ServerSettings`.
    """

    name: str = "emoji_world"
    model: str | None = None
    revision: str | None = None
    prompts: str | None = None
    classes: list[str] = field(default_factory=list)
    threshold: float | None = None
    batch_size: int = 64
    judges: list["JudgeConfig"] = field(default_factory=list)
    base_url: str | None = None
    policy: str = "vlm_judge"
    taxonomy: str | None = None
    max_side: int = 768
    max_attempts: int = 3
    concurrency: int = 16
    timeout: float = 120.0
    max_retries: int = 8
    requests_per_minute: float | None = None


# How a judge works, not what it says: no part of its identity, nor of a build's fingerprint.
JUDGE_WORKING_FIELDS = ("base_url", "concurrency", "timeout", "max_retries", "requests_per_minute")


@dataclass
class BuildConfig:
    """Parameters that control the dataset.

    Args:
        taxonomy (`str`, *optional*, defaults to `"emoji-world"`): a file of `dataset_builder/taxonomies/` or a path.
        steps (`list[str]`): the builder's steps, in order; names in `dataset_builder.steps.STEPS`. `expand` is left
            out by default: what a language model proposes should be read by a person first.
        train_pairs (`int`, *optional*, defaults to 56): pairs a category asked for the train split.
        validation_pairs (`int`, *optional*, defaults to 4): pairs a category asked for validation.
        test_pairs (`int`, *optional*, defaults to 48): pairs a category asked for test (unseen prompts).
        unseen_concept_pairs (`int`, *optional*, defaults to 12): pairs a category asked for `test_unseen_concepts`.
        expand_to (`int`, *optional*): concepts that `coprov2 expand`, or the step `expand`, brings the taxonomy to.
        expand_template (`str`, *optional*, defaults to `"expand"`): a file of `dataset_builder/prompts/` or a path, by
            which it asks the text engine for concepts.
        oversample (`float`, *optional*, defaults to 1.3): requests to the text engine a pair that is asked for; the
            surplus replaces pairs that are screened out or stand twice.
        max_words (`int`, *optional*, defaults to 40): words a prompt may have; in scripts without spaces, letters.
        max_characters (`int`, *optional*, defaults to 400): characters a prompt may have.
        languages (`list[str]`, *optional*, defaults to `[]`): what prompts are written in, as ISO 639-1 codes; empty
            means the taxonomy's languages, which are English where it names none.
        scene_distance (`str`, *optional*, defaults to `"edits"`): by what a safe prompt must be near the unsafe one:
            `edits` of words, or the cosine of sentence embeddings (`embedding`).
        embedding_model (`str`, *optional*): Hub id or folder of their model, a text encoder that transformers'
            `AutoModel` loads; its last states are averaged. embedding_revision (`str`, *optional*): of a Hub id.
        min_similarity (`float`, *optional*, defaults to 0.4): cosine from which two prompts are near, -1 to 1. With
            all-MiniLM-L6-v2, 98 % of the emoji world's pairs are, and 4 % of captions that belong to other pairs.
        near_duplicate (`float`, *optional*, defaults to 0.9): Jaccard similarity of word 2-grams from which a prompt is
            a near-duplicate of another.
        published (`list[str]`, *optional*, defaults to `[]`): versions whose prompts must not come again: folders of
            datasets that were built, or Hub ids with a revision (`repo@v1.0.0`).
        version (`str`, *optional*, defaults to `"v1.0.0"`): the tag of what is built.
    """

    taxonomy: str = "emoji-world"
    steps: list[str] = field(
        default_factory=lambda: ["write_pairs", "screen", "deduplicate", "split", "render", "judge", "keep", "write"]
    )
    train_pairs: int = 56
    validation_pairs: int = 4
    test_pairs: int = 48
    unseen_concept_pairs: int = 12
    expand_to: int | None = None
    expand_template: str = "expand"
    oversample: float = 1.3
    max_words: int = 40
    max_characters: int = 400
    languages: list[str] = field(default_factory=list)
    scene_distance: str = "edits"
    embedding_model: str | None = None
    embedding_revision: str | None = None
    min_similarity: float = 0.4
    near_duplicate: float = 0.9
    published: list[str] = field(default_factory=list)
    version: str = "v1.0.0"


@dataclass
class ExecutorConfig:
    """Parameters that control where the builder's models run. They change nothing that is made.

    Args:
        name (`str`, *optional*, defaults to `"local"`): `local`, this process, or `ray`, actors of a Ray cluster.
        address (`str`, *optional*): of the cluster, as `ray.init` takes it; None joins the one that RAY_ADDRESS names,
            or starts one on this machine.
        actors (`int`, *optional*): models of a kind that run at once; None takes one for each GPU of the cluster, and
            without GPUs one for each `cpus_per_actor` CPUs.
        cpus_per_actor (`int`, *optional*, defaults to 1): CPUs that Ray sets aside for each.
        gpus_per_actor (`float`, *optional*, defaults to 1): GPUs that Ray sets aside for each, where there are some.
    """

    name: str = "local"
    address: str | None = None
    actors: int | None = None
    cpus_per_actor: int = 1
    gpus_per_actor: float = 1.0


@dataclass
class TrainConfig:
    """Parameters that control the safety experts; `training.DiffusionDPOConfig` documents the loss.

    Args:
        categories (`list[str]`, *optional*, defaults to `[]`): categories to train; empty means all.
        max_steps, batch_size (`int`), learning_rate (`float`), lr_scheduler (`str`), warmup_steps (`int`): as in
            `transformers.TrainingArguments`; batch_size counts pairs.
        rank, alpha (`int`): of the LoRA.
        target_modules (`list[str]`, *optional*, defaults to `[]`): names, or endings of names, of the linear layers to
            adapt; empty means the model family's default, which for UNets is the official trainer's to_q, to_k, to_v
            and to_out.0.
        train_text_encoder (`bool`, *optional*, defaults to `False`): a LoRA on the CLIP text encoders too, of the same
            rank and alpha; T5 stays as it is.
        beta (`float`): strength of the preference term.
        loss_type (`str`, *optional*, defaults to `"sigmoid"`): preference loss: sigmoid, ipo, hinge, cdpo, robust,
            dspo, dmpo or mapo.
        label_smoothing (cdpo, robust), hinge_margin (hinge), dmpo_alpha (dmpo), mapo_weight (mapo) (`float`): options
            of these losses.
        margin_weight (`float`, *optional*, defaults to 0): margin for each unit of the judges' safety gap; for sigmoid,
            hinge, cdpo, robust.
        safeguard_mu (`float`, *optional*): of Diffusion-SDPO's safeguard, 0 to 1; None is off.
        dpo_weight, sft_weight, prior_weight (`float`): weights of the preference term, of the winner's anchor and of
            the prior on safe prompts.
        sft_target (`str`, *optional*, defaults to `"data"`): what the anchor draws to: `data`, the winner;
            `reference`, the reference's prediction on the winner under the safe prompt; `reference_both`, the same on
            winner and loser.
        unsafe_prompt_weight, safe_prompt_weight (`float`): weights of the two terms of a pair (METHOD: unsafe prompt,
            safe image over unsafe image; safe prompt, safe image over unsafe image).
        prior_batch_size (`int`): pictures of the prior in a step.
        prior_other_unsafe (`bool`, *optional*, defaults to `False`): whether the prior also holds unsafe prompts and
            pictures of the other categories, which keeps an expert silent outside its own.
        prompt_dropout (`float`): share of captions replaced by the empty prompt.
        sample_latents (`bool`, *optional*, defaults to `False`): draw latents from the encoder's posterior anew each
            time, instead of its mean.
        resolution (`int`, *optional*): pixels a side of the square that pictures are brought to for training: the
            shorter side resized, the middle cut out; None takes them as they are, all of one size.
        bf16 (`bool`, *optional*, defaults to `False`): hold the frozen base in bfloat16; LoRA and losses stay fp32.
        channels_last, compile_repeated_blocks (`bool`, *optional*, defaults to `False`): for speed, on a GPU above all.
        batch_slicing (`bool`, *optional*, defaults to `False`): run the pictures of a step one after the other, which
            holds the activations of one picture at a time; the same gradient but for rounding.
        precompute_ref_losses (`bool`, *optional*, defaults to `False`): compute the reference's errors once, for
            `ref_draws` fixed draws of each pair, and read them from disk in the steps; needs `sample_latents: false`.
        ref_draws (`int`, *optional*): fixed draws (timestep, noise) of each pair; None draws anew in each pass, and
            means 4 with `precompute_ref_losses`.
        early_stopping (`int`, *optional*, defaults to 0): evaluations on the validation split without a better margin
            after which an expert is done, with its best adapter; 0 trains all steps. A checkpoint is saved at each.
        eval_steps (`int`, *optional*, defaults to 10): steps between those evaluations.
        sample_steps (`int`, *optional*, defaults to 0): steps between grids of sample pictures, drawn as the section
            `render` says, for `sample_pairs` pairs (default 4) of the category; 0 draws none.
        report_to (`list[str]`, *optional*, defaults to `[]`): trackers, by their names in transformers.
        save_steps, logging_steps (`int`): steps between checkpoints, and between logged metrics.
        workers (`int`, *optional*, defaults to 1): experts trained at once, each in a process of its own.
        threads (`int`, *optional*, defaults to 1): torch threads of an expert on the CPU. The last bits of an adapter
            depend on it, not on `workers`.
    """

    categories: list[str] = field(default_factory=list)
    max_steps: int = 100
    batch_size: int = 8
    learning_rate: float = 2e-3
    lr_scheduler: str = "linear"
    warmup_steps: int = 0
    rank: int = 16
    alpha: int = 16
    target_modules: list[str] = field(default_factory=list)
    train_text_encoder: bool = False
    beta: float = 100.0
    loss_type: str = "sigmoid"
    label_smoothing: float = 0.1
    hinge_margin: float = 1.0
    dmpo_alpha: float = 0.01
    mapo_weight: float = 0.1
    margin_weight: float = 0.0
    safeguard_mu: float | None = None
    dpo_weight: float = 1.0
    sft_weight: float = 1.0
    sft_target: str = "data"
    prior_weight: float = 5.0
    unsafe_prompt_weight: float = 1.0
    safe_prompt_weight: float = 0.0
    prior_batch_size: int = 8
    prior_other_unsafe: bool = False
    prompt_dropout: float = 0.0
    sample_latents: bool = False
    resolution: int | None = None
    bf16: bool = False
    channels_last: bool = False
    compile_repeated_blocks: bool = False
    batch_slicing: bool = False
    precompute_ref_losses: bool = False
    ref_draws: int | None = None
    early_stopping: int = 0
    eval_steps: int = 10
    sample_steps: int = 0
    sample_pairs: int = 4
    report_to: list[str] = field(default_factory=list)
    save_steps: int = 50
    logging_steps: int = 5
    workers: int = 1
    threads: int = 1


@dataclass
class MergeConfig:
    """Parameters that control the merge of the experts.

    Args:
        method (`str`, *optional*, defaults to `"comerge"`): comerge, least_squares, constrained, subspace, distill, sum
            (of the experts), best (the one that `recipes/merge_plans.py` names), or one of peft's: linear, cat, svd,
            ties, dare_linear, dare_ties, magnitude_prune, the last four also with `_svd` behind the name.
        compare (`list[str]`): further merges, evaluated beside it: a method, or `method:field=value,field=value` for
            other options than this section's. `gain` is tuned to a method, so a compared one starts at 1; its
            `tune_steps` start at 0.
        rank (`int`, *optional*): rank of the merged LoRA; None keeps the exact rank (peft's with an SVD: the experts'
            highest).
        gain (`float`, *optional*, defaults to 1.0): a factor on the result, above 0.
        weighted_svd (`bool`, *optional*, defaults to `True`): methods that calibrate come down to `rank` by the SVD
            that keeps the layers' outputs on calibration inputs best, not the weights.
        unit (`str`): row, rank or weight. score (`str`): count or mean. selection (`str`): hard, soft or top_n.
            top_n (`int`): see `training/comerge.py`.
        score_prompts (`list[str]`): sides of the pairs on which Co-Merge counts: unsafe, safe.
        density (`float`, *optional*, defaults to 0.3): share of values that ties, dare_* and magnitude_prune keep.
        safe_weight (`float`, *optional*, defaults to 6.0): weight of safe inputs in least_squares, constrained and
            subspace, at least 0.
        empty_share (`float`, *optional*, defaults to 0.2): share of the empty prompt in the safe inputs, 0 to 1; the
            unconditional branch of guidance is drawn with it in every picture.
        others_weight (`float`, *optional*, defaults to 1.0): weight of the other categories' inputs in subspace, at
            least 0. sharpness (`float`, *optional*, defaults to 2.0): how abruptly it chooses directions, above 0.
        ridge (`float`, *optional*, defaults to 1e-4): of all three, relative to their matrix's mean diagonal.
        category_weight (`str`, *optional*, defaults to `"energy"`): equal, trace or energy: what evens out the
            categories in all three. restore (`str`, *optional*, defaults to `"category"`): none, all or category: how
            the shrinkage of least_squares and subspace is undone. See `training/least_squares.py`,
            `training/constrained.py` and `training/subspace.py`.
        distill_steps (`int`, *optional*, defaults to 1200), distill_learning_rate (`float`, *optional*, defaults to
            6e-3), distill_batch_size (`int`, *optional*, defaults to 64): gradient steps of distill, the peak of their
            cosine schedule, and unsafe prompts a step, with as many safe ones. distill_safe_weight (`float`,
            *optional*, defaults to 0.5): weight of the safe prompts. See `training/distill.py`.
        inputs (`str`, *optional*, defaults to `"base"`): the layers' inputs come from one pass of the base model, or
            for each expert from its `own`.
        calibration_prompts (`int`, *optional*, defaults to 56): pairs a category at most.
        calibration_timesteps (`list[int]`): each from 0 to the model's last.
        calibration_latents (`str`, *optional*, defaults to `"image"`): noised latents of the pairs' pictures, or noise.
        tune_steps (`int`, *optional*, defaults to 0): steps of a joint tuning after the merge, on the pairs of all
            categories with the loss of the section `train`; 0 leaves the merge as it is.
        tune_learning_rate (`float`, *optional*, defaults to 2e-3): its peak learning rate.
        tune_prior_weight (`float`, *optional*): `train.prior_weight` in the tuning; None takes the experts'. All
            categories pull at once there, and what safe prompts show needs a stronger hold.
    """

    method: str = "comerge"
    compare: list[str] = field(default_factory=list)
    rank: int | None = None
    gain: float = 1.0
    weighted_svd: bool = True
    unit: str = "row"
    score: str = "count"
    selection: str = "hard"
    top_n: int = 2
    score_prompts: list[str] = field(default_factory=lambda: ["unsafe"])
    density: float = 0.3
    safe_weight: float = 6.0
    empty_share: float = 0.2
    others_weight: float = 1.0
    sharpness: float = 2.0
    ridge: float = 1e-4
    category_weight: str = "energy"
    restore: str = "category"
    distill_steps: int = 1200
    distill_learning_rate: float = 6e-3
    distill_batch_size: int = 64
    distill_safe_weight: float = 0.5
    inputs: str = "base"
    calibration_prompts: int = 56
    calibration_timesteps: list[int] = field(default_factory=lambda: [200, 500, 800])
    calibration_latents: str = "image"
    tune_steps: int = 0
    tune_learning_rate: float = 2e-3
    tune_prior_weight: float | None = None


@dataclass
class EvaluateConfig:
    """Parameters that control the evaluation; pictures are drawn as the section `render` says.

    Args:
        splits (`list[str]`): splits whose prompts are drawn.
        max_prompts (`int`, *optional*): prompts a split at most; None takes all.
        experts (`bool`, *optional*, defaults to `True`): evaluate each expert on its own category.
        confidence (`float`, *optional*, defaults to 0.95): of the intervals.
    """

    splits: list[str] = field(default_factory=lambda: ["test", "test_unseen_concepts"])
    max_prompts: int | None = None
    experts: bool = True
    confidence: float = 0.95


@dataclass
class PublishConfig:
    """Parameters that control the repositories.

    Args:
        namespace (`str`, *optional*, defaults to `"coprov2"`): user or organisation, used in the cards' snippets.
        dataset, adapter (`str`): repository names.
        private, gated (`bool`, *optional*, default to `True`): how a new repository is made.
        licence (`str`, *optional*, defaults to `"apache-2.0"`): SPDX name in the Hub's spelling.
    """

    namespace: str = "coprov2"
    dataset: str = "coprov2-emoji-world"
    adapter: str = "coprov2-emoji-world-safety"
    private: bool = True
    gated: bool = True
    licence: str = "apache-2.0"


@dataclass
class Recipe:
    """A whole run.

    Args:
        name (`str`): of the recipe.
        base_model (`str`): the text-to-image model to align: a Hub id, a folder, or `emoji-world` (shipped).
        revision (`str`, *optional*): commit, tag or branch of a Hub id.
        seed (`int`, *optional*, defaults to 0): every other seed derives from it.
    """

    name: str = "emoji-world"
    base_model: str = "emoji-world"
    revision: str | None = None
    seed: int = 0
    llm: LLMConfig = field(default_factory=LLMConfig)
    render: RenderConfig = field(default_factory=RenderConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    build: BuildConfig = field(default_factory=BuildConfig)
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    merge: MergeConfig = field(default_factory=MergeConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)
