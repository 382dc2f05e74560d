"""Measure the emoji world's models: `python -m dataset_builder.emoji_world.check [--out DIR]`.

Fresh prompts and drawings, none of which any model was trained on as such. Writes `check.json`, a contact sheet of the
text-to-image model's pictures and, with `--cards`, the model cards with the figures."""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw
from scipy.stats import binomtest
from tqdm import tqdm
from transformers import AutoTokenizer, LlamaForCausalLM, ResNetForImageClassification

from dataset_builder.emoji_world.make_judge import BACKGROUND_LABEL, LABELS, exact_set_accuracy
from dataset_builder.emoji_world.make_llm import request, training_prompts
from dataset_builder.emoji_world.make_vae import psnr
from dataset_builder.emoji_world.scenes import SIZE_WORDS, Scene, random_scene
from dataset_builder.emoji_world.things import THINGS, UNSAFE, find_things

# As in the recipe.
TEMPERATURE = 0.7
MODELS = Path(__file__).parent / "models"
_SIZES = {word for words in SIZE_WORDS.values() for word in words if word}


@torch.no_grad()
def name_things(judge: ResNetForImageClassification, pictures: Sequence[Image.Image]) -> list[set[str]]:
    """What the judge sees in each picture: names of things, and `background:<name>`."""
    pixels = torch.from_numpy(np.stack([np.asarray(p.convert("RGB")) for p in pictures])).permute(0, 3, 1, 2)
    named = torch.cat([judge(pixel_values=b.float() / 127.5 - 1).logits > 0 for b in pixels.split(64)])
    return [{LABELS[i] for i in row.nonzero().flatten().tolist()} for row in named]


def draw(
    pipeline: DiffusionPipeline, prompts: Sequence[str], seed: int, steps: int, guidance: float, batch: int = 32
) -> list[Image.Image]:
    """A picture of each prompt; picture i starts from the noise of seed + i."""
    out: list[Image.Image] = []
    for start in tqdm(range(0, len(prompts), batch), desc="pictures", unit="batch", leave=False):
        part = list(prompts[start : start + batch])
        noise = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        out += pipeline(
            part, num_inference_steps=steps, guidance_scale=guidance, height=64, width=64, generator=noise
        ).images
    return out


def check_pictures(
    pipeline: DiffusionPipeline, judge: ResNetForImageClassification, seed: int, count: int, steps: int, guidance: float
) -> tuple[dict[str, float], dict[str, int], list[tuple[Scene, Image.Image, bool]]]:
    """Share of pictures that hold what their caption names, and how many it is of; half of the captions name one thing,
    half two."""
    rng = np.random.default_rng([seed, 21])
    names = list(THINGS)
    scenes = []
    for index in range(count):
        first, second = (str(n) for n in rng.choice(names, 2, replace=False))
        scenes.append(random_scene(rng, (first,) if index % 2 == 0 else (first, second)))
    started = time.monotonic()
    pictures = draw(pipeline, [scene.caption() for scene in scenes], seed * 100_000, steps, guidance)
    seconds = time.monotonic() - started
    seen = name_things(judge, pictures)
    held = [set(scene.things) <= found for scene, found in zip(scenes, seen, strict=True)]
    ground = [
        BACKGROUND_LABEL + scene.background in found
        for scene, found in zip(scenes, seen, strict=True)
        if scene.background
    ]
    by_size = {
        size: [h for h, s in zip(held, scenes, strict=True) if len(s.things) == 1 and s.size == size]
        for size in ("small", "", "big")
    }
    safe_only = [(s, f) for s, f in zip(scenes, seen, strict=True) if not set(s.things) & set(UNSAFE)]
    trials = {
        "one_thing_held": held[0::2],
        "two_things_held": held[1::2],
        "background_held": ground,
        "unsafe_seen_where_none_is_named": [bool(f & set(UNSAFE)) for _, f in safe_only],
        **{f"one_{size or 'normal'}_thing_held": values for size, values in by_size.items()},
    }
    figures = {
        **{name: float(np.mean(values)) for name, values in trials.items()},
        "pictures": count,
        "pictures_a_second": count / seconds,
    }
    counts = {name: len(values) for name, values in trials.items()}
    return figures, counts, list(zip(scenes, pictures, held, strict=True))


def intervals(figures: dict[str, float], counts: dict[str, int]) -> dict[str, dict[str, float]]:
    """The shares among `figures` with Wilson's 95 % interval, by their numbers of trials in `counts`."""
    found = {}
    for name, n in counts.items():
        low, high = binomtest(round(figures[name] * n), n).proportion_ci(method="wilson")
        found[name] = {"value": figures[name], "low": float(low), "high": float(high), "n": n}
    return found


def check_llm(
    llm: LlamaForCausalLM, tokenizer: AutoTokenizer, seed: int, count: int, batch: int = 50
) -> dict[str, float]:
    """Quality of `count` sampled answers, concepts in turn."""
    known = training_prompts(0)
    concepts = [list(UNSAFE)[i % len(UNSAFE)] for i in range(count)]
    valid = kept = clean = scene = new = 0
    texts = set()
    torch.manual_seed(seed)
    tokenizer.padding_side = "left"
    started = time.monotonic()
    for start in tqdm(range(0, count, batch), desc="llm", unit="batch", leave=False):
        part = concepts[start : start + batch]
        chats = [[{"role": "user", "content": request(UNSAFE[c].category or "", c)}] for c in part]
        inputs = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            output = llm.generate(**inputs, do_sample=True, temperature=TEMPERATURE, max_new_tokens=96)
        for concept, reply in zip(
            part,
            tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True),
            strict=True,
        ):
            try:
                pair = json.loads(reply)
                unsafe, safe = pair["unsafe_prompt"], pair["safe_prompt"]
            except (ValueError, KeyError, TypeError):
                continue
            valid += 1
            texts.add(unsafe)
            kept += concept in find_things(unsafe)
            clean += not set(find_things(safe)) & set(UNSAFE)
            scene += rest_is_kept(unsafe, safe, concept)
            new += unsafe not in known
    answers = max(valid, 1)
    return {
        "valid": valid / count,
        "concept_kept": kept / answers,
        "safe_side_clean": clean / answers,
        "scene_kept_word_for_word": scene / answers,
        "not_in_training_text": new / answers,
        "distinct": len(texts) / answers,
        "answers": count,
        "answers_a_second": count / (time.monotonic() - started),
    }


def rest_is_kept(unsafe: str, safe: str, concept: str) -> bool:
    """Whether `safe` is `unsafe` with one other thing in the concept's place and every other word as it was.

    The article belongs to the name: "an axe" may become "a guitar", and "a big imp" "big grapes"."""
    words, others = unsafe.split(), safe.split()
    for name in (name.split() for name in UNSAFE[concept].names):
        for start in range(len(words) - len(name) + 1):
            if words[start : start + len(name)] != name:
                continue
            before, after = words[:start], words[start + len(name) :]
            size = before[-1:] if before and before[-1] in _SIZES else []
            before = before[: len(before) - len(size)]
            if before and before[-1] in ("a", "an"):
                before = before[:-1]
            middle = others[len(before) : len(others) - len(after)]
            same = others[: len(before)] == before and others[len(others) - len(after) :] == after
            if middle and middle[0] in ("a", "an"):
                middle = middle[1:]
            same = same and middle[: len(size)] == size
            middle = middle[len(size) :]
            if same and 1 <= len(middle) <= 3 and len(find_things(" ".join(middle))) == 1:
                return True
    return False


def contact_sheet(results: list[tuple[Scene, Image.Image, bool]], columns: int = 8, scale: int = 2) -> Image.Image:
    """Pictures with their captions under them; a red frame where the judge misses a thing."""
    cell, text = 64 * scale, 40
    rows = -(-len(results) // columns)
    sheet = Image.new("RGB", (columns * (cell + 8), rows * (cell + text + 8)), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (scene, picture, held) in enumerate(results):
        x, y = (index % columns) * (cell + 8) + 4, (index // columns) * (cell + text + 8) + 4
        sheet.paste(picture.resize((cell, cell), Image.Resampling.NEAREST), (x, y))
        if not held:
            pen.rectangle((x - 2, y - 2, x + cell + 1, y + cell + 1), outline="red", width=2)
        words, line, lines = scene.caption().split(), "", []
        for word in words:
            if len(line) + len(word) > 21:
                lines.append(line)
                line = ""
            line = f"{line} {word}".strip()
        pen.text((x, y + cell), "\n".join([*lines, line]), fill="black", font_size=10)
    return sheet


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--models", type=Path, default=MODELS, help="folder with llm/, t2i/ and judge/")
    parser.add_argument("--out", type=Path, default=Path("runs/check"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--answers", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--parts", nargs="+", choices=["judge", "t2i", "llm"], default=["judge", "t2i", "llm"])
    parser.add_argument("--cards", action="store_true", help="write the models' cards with these figures")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, dict[str, float]] = {}
    counts: dict[str, dict[str, int]] = {}
    judge = ResNetForImageClassification.from_pretrained(args.models / "judge", dtype=torch.float32).eval()
    if "t2i" in args.parts or "judge" in args.parts:
        pipeline = DiffusionPipeline.from_pretrained(args.models / "t2i", torch_dtype=torch.float32)
        pipeline.set_progress_bar_config(disable=True)
    if "judge" in args.parts:
        figures["judge"] = {
            "exact_set": exact_set_accuracy(judge, seed=args.seed + 1000, count=2000),
            "exact_set_through_the_vae": exact_set_accuracy(judge, seed=args.seed + 2000, count=500, vae=pipeline.vae),
        }
        counts["judge"] = {"exact_set": 2000, "exact_set_through_the_vae": 500}
    if "t2i" in args.parts:
        figures["t2i"], counts["t2i"], results = check_pictures(
            pipeline, judge, args.seed, args.pictures, args.steps, args.guidance
        )
        figures["t2i"]["vae_psnr_db"] = psnr(pipeline.vae)
        figures["t2i"] |= {"steps": args.steps, "guidance": args.guidance}
        contact_sheet(results[:64]).save(args.out / "contact_sheet.png")
        contact_sheet([r for r in results if not r[2]][:64]).save(args.out / "misses.png")
    if "llm" in args.parts:
        llm = LlamaForCausalLM.from_pretrained(args.models / "llm", dtype=torch.float32).eval()
        figures["llm"] = check_llm(llm, AutoTokenizer.from_pretrained(args.models / "llm"), args.seed, args.answers)
        shares = [name for name in figures["llm"] if not name.startswith("answers")]
        counts["llm"] = dict.fromkeys(shares, args.answers)
    for part, values in figures.items():
        for key, value in values.items():
            print(f"{part:6s} {key:34s} {value:.4f}" if isinstance(value, float) else f"{part:6s} {key:34s} {value}")
    known = {part: intervals(figures[part], counts[part]) for part in figures}
    (args.out / "check.json").write_text(json.dumps({**figures, "intervals": known}, indent=1) + "\n", "utf8")
    if args.cards:
        from dataset_builder.emoji_world.model_cards import write_cards

        write_cards(args.models, figures)


if __name__ == "__main__":
    main()
