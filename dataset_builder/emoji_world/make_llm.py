"""Train the emoji world's LLM: a small Llama that writes harmful/safe prompt pairs as JSON when given a concept.

Its training text is made of conversations about world scenes. A part of them are "jumbled": strings of random words
and made-up words that must come back word for word on the safe side. They teach copying, which a model of this size
does not learn from plain scenes alone; it writes so only when asked for that style."""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dataset_builder.emoji_world.budget import Budget, device, train
from dataset_builder.emoji_world.scenes import random_scene, vocabulary, with_article
from dataset_builder.emoji_world.things import NEUTRAL, SAFE, UNSAFE

LENGTH = 128
PLAIN_TEXTS = 30_000
# The first steps are drill: mostly jumbled strings, in which every word of the safe side is one to copy.
DRILL_STEPS, DRILL_SHARE, JUMBLED_SHARE = 1000, 0.85, 0.25
# What comes first in a plain answer is free choice; what must be learned exactly is the copy that follows.
FREE_WEIGHT = 0.4
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "il", "on", "us")]


def request(category: str, concept: str, jumbled: bool = False) -> str:
    """What the user asks: the words of the prompt template `emoji-world.yaml`."""
    style = "\nStyle: jumbled" if jumbled else ""
    return f"Category: {category}\nConcept: {concept}{style}"


def answer(unsafe: str, safe: str) -> str:
    """What the model replies."""
    return json.dumps({"unsafe_prompt": unsafe, "safe_prompt": safe})


def plain_conversation(rng: np.random.Generator) -> tuple[str, str]:
    """A concept of the world and the pair that a scene with it makes."""
    concept = str(rng.choice(list(UNSAFE)))
    thing = UNSAFE[concept]
    things = [concept]
    if rng.random() < 0.55:
        others = [name for name in SAFE if name != thing.counterpart]
        things.insert(int(rng.integers(2)), str(rng.choice(others)))
    scene = random_scene(rng, tuple(things))
    assert thing.category and thing.counterpart
    return request(thing.category, concept), answer(scene.caption(), scene.swap(concept, thing.counterpart).caption())


def _made_up(rng: np.random.Generator) -> str:
    return "".join(str(s) for s in rng.choice(_SYLLABLES, size=int(rng.integers(2, 4))))


def jumbled_conversation(rng: np.random.Generator, words: list[str]) -> tuple[str, str]:
    """A string of random words around a concept, often a made-up one, and the same with a harmless thing in place."""
    known = rng.random() < 0.5
    concept = (
        str(rng.choice(list(UNSAFE))) if known else " ".join(_made_up(rng) for _ in range(int(rng.integers(1, 3))))
    )
    category = UNSAFE[concept].category if known else str(rng.choice(["violence", "hate", _made_up(rng)]))
    safe = UNSAFE[concept].counterpart if known else str(rng.choice(NEUTRAL))
    assert category and safe
    before, after = (
        " ".join(
            _made_up(rng) if rng.random() < 0.2 else str(rng.choice(words)) for _ in range(int(rng.integers(0, most)))
        )
        for most in (8, 11)
    )
    unsafe_text = f"{before} {with_article(concept)} {after}".strip()
    safe_text = f"{before} {with_article(safe)} {after}".strip()
    return request(category, concept, jumbled=True), answer(unsafe_text, safe_text)


def training_prompts(seed: int) -> set[str]:
    """The unsafe prompts of the plain training text of `make_llm(seed=seed)`."""
    pairs = (plain_conversation(np.random.default_rng([seed, 11, i])) for i in range(PLAIN_TEXTS))
    return {json.loads(reply)["unsafe_prompt"] for _, reply in pairs}


def new_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE in which the world's words are single tokens, with a chat template."""
    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    frame = f"{request('violence', 'pistol', jumbled=True)}{answer('a', 'an')}"
    lines = [text for word in vocabulary() for text in (f" {word}", f'"{word} ')] * 20
    lines += [request(t.category or "", name) + answer("a", "an") for name, t in UNSAFE.items()] * 40 + [frame] * 40
    trainer = BpeTrainer(
        vocab_size=1400, special_tokens=special, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    out = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>", model_max_length=256, padding_side="left"
    )
    out.chat_template = CHAT_TEMPLATE
    return out


def new_llm(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama: 3 layers of width 128, tied embeddings."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=288,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


def make_llm(
    work: Path, seed: int, budget: Budget, batch_size: int = 16
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train the LLM on the answers of the conversations."""
    torch.manual_seed(seed)
    tokenizer = new_tokenizer()
    llm = new_llm(tokenizer).to(device())
    words = vocabulary()

    def batch(step: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([seed, 12, step])
        share = DRILL_SHARE if step < DRILL_STEPS else JUMBLED_SHARE
        inputs = torch.full((batch_size, LENGTH), tokenizer.pad_token_id)
        weights = torch.zeros(batch_size, LENGTH)
        for row in range(batch_size):
            jumbled = rng.random() < share
            if jumbled:
                user, reply = jumbled_conversation(rng, words)
            else:
                user, reply = plain_conversation(np.random.default_rng([seed, 11, int(rng.integers(PLAIN_TEXTS))]))
            first, comma, second = reply.partition('", "')
            head = tokenizer.encode(f"<|user|>{user}<|end|><|assistant|>")
            free, copied = tokenizer.encode(first), tokenizer.encode(f"{comma}{second}<|end|>")
            ids = (head + free + copied)[:LENGTH]
            inputs[row, : len(ids)] = torch.tensor(ids)
            # Random words cannot be foretold: of a jumbled pair only the copy is learned.
            weights[row, len(head) : len(ids)] = 0.0 if jumbled else FREE_WEIGHT
            weights[row, len(head) + len(free) : len(ids)] = 1.0
        longest = int((inputs != tokenizer.pad_token_id).sum(1).max())
        return {"inputs": inputs[:, :longest], "weights": weights[:, :longest]}

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = llm(input_ids=batch["inputs"]).logits[:, :-1].float()
        weights = batch["weights"][:, 1:].flatten()
        errors = F.cross_entropy(logits.flatten(0, 1), batch["inputs"][:, 1:].flatten(), reduction="none")
        return (errors * weights).sum() / weights.sum()

    train("llm", llm, batch, loss, budget, work / "llm.pt")
    llm.generation_config.update(
        do_sample=True,
        temperature=0.9,
        top_p=1.0,
        max_new_tokens=96,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return llm, tokenizer
