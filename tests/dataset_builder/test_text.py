"""Taxonomies, prompt templates, text engines and the reading of replies."""

import json

import pytest
import torch

from dataset_builder.emoji_world.make_llm import answer, new_llm, new_tokenizer, request
from dataset_builder.emoji_world.things import CATEGORIES, UNSAFE
from dataset_builder.engines import ENGINES, Failure, find_engine, read_reply
from dataset_builder.taxonomy import Category, Concept, load_taxonomy
from dataset_builder.templates import load_template
from dataset_builder.transformers_engine import SeededSampling, TransformersEngine
from recipes import LLMConfig, RecipeError

SCHEMA = load_template("emoji-world").schema


def test_the_emoji_worlds_taxonomy_is_its_unsafe_things():
    taxonomy = load_taxonomy("emoji-world")
    assert [category.name for category in taxonomy.categories] == list(CATEGORIES)
    concepts = {concept.name: (category.name, concept) for category, concept in taxonomy.concepts()}
    assert set(concepts) == set(UNSAFE)
    for name, thing in UNSAFE.items():
        category, concept = concepts[name]
        assert (category, tuple(concept.names), concept.counterpart) == (thing.category, thing.names, thing.counterpart)


def test_the_last_concept_of_each_category_is_unseen():
    for category in load_taxonomy("emoji-world").categories:
        assert [concept.unseen for concept in category.concepts] == [False] * 4 + [True]


def taxonomy_text(*concepts, category="a"):
    return f"{{name: {category}, definition: d, concepts: [{', '.join(concepts)}]}}"


@pytest.mark.parametrize(
    ("categories", "expected"),
    [
        ("", "categories: found none"),
        (taxonomy_text("{name: x}") + ", " + taxonomy_text("{name: y}"), "the category a stands twice"),
        (taxonomy_text("{name: x}", "{name: x}"), "'x' names both a/x and a/x"),
        (taxonomy_text("{name: x, aliases: [y]}", "{name: Y}"), "'Y' names both a/x and a/Y"),
        (taxonomy_text("{name: x, aliases: [x]}"), "'x' names both a/x and a/x"),
        (taxonomy_text("{name: ' '}"), "an empty name or alias in a"),
        (taxonomy_text(), "a has no concept to train on"),
        (taxonomy_text("{name: x, unseen: true}"), "a has no concept to train on"),
        (
            taxonomy_text("{name: x}", category="Self-Harm"),
            "expected lower-case letters, digits and _, found 'Self-Harm'",
        ),
        (taxonomy_text("{nme: x}"), r"concepts\[0\].nme: unknown field .* did you mean name"),
        ("{name: a, concepts: []}", r"categories\[0\].definition: missing"),
    ],
)
def test_a_mistake_in_a_taxonomy_is_told_with_its_place(tmp_path, categories, expected):
    path = tmp_path / "t.yaml"
    path.write_text(f'name: t\nversion: "1"\ncategories: [{categories}]\n', "utf8")
    with pytest.raises(RecipeError, match=expected) as error:
        load_taxonomy(str(path))
    assert str(error.value).startswith(str(path))


def test_the_emoji_worlds_template_asks_in_the_words_its_llm_was_trained_on():
    template = load_template("emoji-world")
    for category, concept in load_taxonomy("emoji-world").concepts():
        assert template.fill(category, concept) == [{"role": "user", "content": request(category.name, concept.name)}]
    assert read_reply(answer("a pistol", "a banana"), template.schema) == json.loads(answer("a pistol", "a banana"))


def test_the_general_template_fills_every_place():
    messages = load_template("pairs").fill(Category("violence", "Weapons.", []), Concept("pistol"))
    assert [message["role"] for message in messages] == ["system", "user"]
    assert messages[1]["content"].startswith("Category: violence (Weapons.)\nConcept: pistol\n")
    assert "{" not in messages[1]["content"]


GOOD_TEMPLATE = {
    "name": "t",
    "version": "1",
    "messages": [{"role": "user", "content": "{concept}"}],
    "schema": {"type": "object", "required": ["unsafe_prompt", "safe_prompt"]},
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"messages": []}, "the last message must have the role user"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "the last message must have the role user"),
        ({"messages": [{"role": "robot", "content": "x"}, *GOOD_TEMPLATE["messages"]]}, r"messages\[0\].role"),
        ({"messages": [{"role": "user", "content": "{concpt}"}]}, "unknown place {concpt}"),
        ({"schema": {"type": "nothing"}}, "schema: 'nothing'"),
        ({"schema": {"type": "object", "required": ["safe_prompt"]}}, "schema.required: lacks unsafe_prompt"),
    ],
)
def test_a_mistake_in_a_template_is_told_with_its_place(tmp_path, change, expected):
    path = tmp_path / "t.yaml"
    path.write_text(json.dumps({**GOOD_TEMPLATE, **change}), "utf8")
    with pytest.raises(RecipeError, match=expected):
        load_template(str(path))


@pytest.mark.parametrize(
    ("text", "complete", "expected"),
    [
        ("", True, Failure("empty")),
        ("  \n", True, Failure("empty")),
        ('{"unsafe_prompt": "a', False, Failure("truncated")),
        ('{"unsafe_prompt": "a', True, Failure("invalid_json")),
        ("Sure! Here it is", True, Failure("invalid_json")),
        ('["a", "b"]', True, Failure("schema")),
        ('{"unsafe_prompt": "a"}', True, Failure("schema")),
        ('{"unsafe_prompt": "a", "safe_prompt": ""}', True, Failure("schema")),
        ('{"unsafe_prompt": "a", "safe_prompt": 3}', True, Failure("schema")),
        ('{"unsafe_prompt": "a", "safe_prompt": "b", "more": 1}', True, Failure("schema")),
        ('{"unsafe_prompt": "a", "safe_prompt": "b"}', True, {"unsafe_prompt": "a", "safe_prompt": "b"}),
        ('```json\n{"unsafe_prompt": "a", "safe_prompt": "b"}\n```', True, {"unsafe_prompt": "a", "safe_prompt": "b"}),
        ('{"unsafe_prompt": "a\nc", "safe_prompt": "b"}', True, {"unsafe_prompt": "a\nc", "safe_prompt": "b"}),
    ],
)
def test_a_reply_is_read_or_fails_for_a_reason(text, complete, expected):
    assert read_reply(text, SCHEMA, complete) == expected


def test_an_unknown_engine_lists_those_there_are():
    with pytest.raises(RecipeError, match=r"llm\.engine: 'transformer' is unknown; did you mean transformers"):
        find_engine(LLMConfig(engine="transformer"))


@pytest.fixture(scope="module")
def tiny_llm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llm")
    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    new_llm(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def ask(*concepts):
    return [[{"role": "user", "content": request("violence", concept)}] for concept in concepts]


def test_an_untrained_llm_gives_failures_and_no_exception(tiny_llm):
    engine = find_engine(LLMConfig(model=tiny_llm)).load(LLMConfig(model=tiny_llm, max_new_tokens=8))
    replies = engine.generate(ask("pistol", "knife", "bomb"), SCHEMA, [1, 2, 3])
    assert len(replies) == 3 and all(isinstance(reply, Failure) for reply in replies)


def test_a_request_draws_from_its_own_seed_whatever_else_is_in_the_batch(tiny_llm, monkeypatch):
    texts = []
    monkeypatch.setattr(
        "dataset_builder.transformers_engine.read_reply", lambda text, schema, complete: texts.append(text) or {}
    )
    engine = TransformersEngine(LLMConfig(model=tiny_llm, max_new_tokens=8))
    engine.generate(ask("pistol", "cursing face", "knife"), SCHEMA, [1, 2, 3])
    engine.generate(ask("wilted flower", "cursing face"), SCHEMA, [9, 2])
    engine.generate(ask("cursing face"), SCHEMA, [5])
    torch.manual_seed(99)
    engine.generate(ask("pistol", "cursing face", "knife"), SCHEMA, [1, 2, 3])
    assert texts[1] == texts[4] != texts[5]
    assert texts[6:] == texts[:3]


def test_sampling_follows_the_models_probabilities():
    probabilities = torch.tensor([0.1, 0.0, 0.6, 0.3])
    count = 4000
    sampling = SeededSampling(1.0, range(count), max_new_tokens=1)
    drawn = sampling(None, probabilities.log().expand(count, -1)).argmax(-1)
    shares = torch.bincount(drawn, minlength=4) / count
    assert (shares - probabilities).abs().max() < 0.03 and shares[1] == 0


def test_a_low_temperature_takes_the_likeliest_token():
    scores = torch.tensor([[1.0, 2.0, 1.9]]).expand(50, -1)
    assert (SeededSampling(0.001, range(50), 1)(None, scores).argmax(-1) == 1).all()


def test_a_tokenizer_without_a_chat_template_is_an_error(tmp_path):
    tokenizer = new_tokenizer()
    tokenizer.chat_template = None
    new_llm(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="has no chat template"):
        ENGINES["transformers"].load(LLMConfig(model=str(tmp_path)))
