"""Text of others in a card stays text: whatever a name holds, the page has the same markup as with a plain one."""

import ast
import json
import random
import re
import shlex
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jinja2
import markdown
import pyarrow.parquet as pq
import pytest
import yaml
from markdown_it import MarkdownIt

import dataset_builder.models
from cards import adapter_card, dataset_card, write_dataset_card
from cards.escaping import LONGEST, bibtex, cell, code, literal, plain, word
from cards.facts import AdapterFacts, DatasetFacts, StepFacts
from cards.sections import sections_by_hand
from cards.validation import card_problems, read_metadata
from dataset_builder.schema import features, shard_name
from recipes import Recipe, RecipeError
from tests.made_up_run import T2I

FRAGMENTS = [
    *("|", "\\", "`", "``", "```", "~~~", "~~", "*", "**", "_", "__", "#", "&lt;", "&#60;script&#62;", "&amp;"),
    *("<?php", "<![CDATA[", "<", ">", "<b>", "<!--", "-->", "<details>", "](", ":skull:", "!", "%", "^", "{", "}"),
    *("[a](https://x.example)", "![a](b.png)", "<script>alert(1)</script>", "https://x.example/y"),
    *("http://x.example", "www.x.example", "mailto:a@x.example", "a@x.example", "@somebody", "$$x^2$$", "$x$"),
    *("\\(x\\)", "\\\\(x\\\\)", "\\[x\\]", "${x}", "#{x}", "---", "===", "'", '"', "';", '");', "$(id)", "`id`"),
    *("=1+1", "é", "名", "🔫", "a", "[^1]", "{{7*7}}"),
    *("\n", "\r\n", "\t", "# ", "- ", "+ ", "1. ", "> ", "[x]: https://x.example", "<img src=x onerror=alert(1)>"),
    *("{{ 7 * 7 }}", "{% for x in y %}", "{# #}", "<!-- by hand: limits -->", "<!-- end by hand -->", "; id", "&& id"),
    *("\n<!-- end by hand -->\n", "\n---\n", "\n...\n", "\u202e", "\u200b", "\u2066", "\u0000", "\u001b[31m"),
    *("\u2028", "\ufeff", "\ud800", "\ue000", "b c", " ", "  ", ": ", ", ", "x" * 700, "- [ ] ", "[^1]: x"),
    *("\n\n    x", "\n| a | b |\n|---|---|\n", "\n# x\n", "\n```\nx\n```\n"),
]


def hostile(seed: int) -> str:
    """A made-up hostile text; the seed says which."""
    rng = random.Random(seed)
    return "".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(1, 8)))


TEXTS = [*FRAGMENTS, *(hostile(seed) for seed in range(200))]
PLACES = ["| a | {} | b |\n|---|---|---|\n| {} | x | {} |\n", "# {}\n", "- {}\n", "a {} b\n", "a **{}** b\n"]
NAMES = {"load_dataset", "load_pipeline", "DiffusionPipeline", "pipe", "dataset", "prompts", "image"}
_MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def skeleton(tokens: list[Any]) -> list[Any]:
    """The markup of a page without its text: which tokens, nested how, leading where, and its HTML as it is."""
    found: list[Any] = []
    for token in tokens:
        if token.type in ("text", "softbreak"):
            if found and found[-1] == "text":
                continue
            found.append("text")
        elif token.type == "inline":
            found.append(skeleton(token.children or []))
        else:
            shown = token.content if token.type in ("html_inline", "html_block") else ""
            found.append((token.type, token.tag, str(sorted(token.attrs.items())), shown))
    return found


def normal(found: list[Any]) -> list[Any]:
    """A skeleton in which inline code by backticks and by its tag are one, as an empty and a full text are."""
    flat: list[Any] = []
    for part in found:
        if isinstance(part, list):
            flat.append(normal(part))
        elif (
            part == "text"
            or (isinstance(part, tuple) and part[3] in ("<code>", "</code>"))
            or (isinstance(part, tuple) and part[0] == "code_inline")
        ):
            continue
        else:
            flat.append(part)
    return flat


class _Page(HTMLParser):
    """The tags with their attributes, and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[Any] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[Any]) -> None:
        self.tags.append((tag, attrs))

    def handle_comment(self, data: str) -> None:
        self.tags.append(("comment", data))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("place", PLACES)
def test_a_value_is_shown_as_it_is_and_starts_no_markup(place: str) -> None:
    for text in TEXTS:
        wanted = plain(text).strip()
        for shown, like in ((cell(text), cell("plain")), (code(text), code("plain"))):
            tokens, same = (_MARKDOWN.parse(place.replace("{}", value)) for value in (shown, like))
            if wanted:
                assert normal(skeleton(tokens)) == normal(skeleton(same)), (text, shown)
            page, plain_page = (
                _Page(markdown.markdown(place.replace("{}", value), extensions=["tables"])) for value in (shown, like)
            )
            if wanted and not set(text) & set("\\`"):
                assert page.tags == plain_page.tags, (text, shown)
        line = _Page(_MARKDOWN.render(f"a {cell(text)} b"))
        assert " ".join(line.text.split()) == " ".join(f"a {wanted} b".split()), text


def test_what_cannot_be_seen_is_marked_and_no_text_fills_a_page() -> None:
    assert plain("a\u202eb\u0000c\ud800") == "a�b�c�" and plain("x" * 999) == "x" * (LONGEST - 1) + "…"
    for text in TEXTS:
        shown = plain(text)
        assert len(shown) <= LONGEST and "\n" not in shown
        shown.encode("utf8")


def test_literals_words_and_fields_hold_one_text_on_one_line() -> None:
    for text in TEXTS:
        assert "\n" not in literal(text) and ast.literal_eval(literal(text)) == text
        assert shlex.split(word(text)) == [plain(text)]
        assert not set(bibtex(text).replace("\\_", "")) & set('{}\\%$#&~^"@_')


# Where something that others wrote stands in a card, each given to all of its values at once.
def dataset_text(value: str, recipe: Recipe) -> str:
    facts = DatasetFacts(
        name=value,
        version=value,
        code=value,
        fingerprint=value,
        models={"llm": value, "t2i": value, "judge": value},
        steps=[StepFacts(value, 2, 1, {value: 1})],
        imported=None,
        recipe=value,
        files={},
    )
    counts = {"train": Counter({value: 2, "other": 1}), "test": Counter({value: 1})}
    return dataset_card.card_body(recipe, facts, {value: value}, counts, ["default", "prompts"], value, True)


def adapter_text(value: str, recipe: Recipe) -> str:
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 4}
    measures = {"unsafe_rate": estimate, "per_category": {value: {"unsafe_rate": estimate}}}
    results = {
        "models": {"base": measures, "merged": measures},
        "provenance": {
            "judge": value,
            "dataset": {"version": value},
            "prompts": {"test": 4},
            "evaluate": {"confidence": 0.95},
        },
    }
    facts = AdapterFacts(value, value, {value: value}, [value, "other"], 2, {"steps": 1, "learning_rate": 0.1})
    recipe = replace(recipe, name=value)
    return adapter_card.card_body(recipe, facts, f"{value}@0", "0" * 64, results)


@pytest.mark.parametrize("base_model", ["emoji-world", "org/model"])
def test_a_card_has_the_same_markup_whatever_the_names_in_it_are(base_model: str) -> None:
    recipe = Recipe(base_model=base_model)
    for write in (dataset_text, adapter_text):
        like = normal(skeleton(_MARKDOWN.parse(write("plain", recipe))))
        sections = sections_by_hand(write("plain", recipe), "card")
        for text in [*FRAGMENTS, *(hostile(seed) for seed in range(1000, 1030))]:
            if not plain(text).strip() or text == "other":
                continue
            body = write(text, recipe)
            assert normal(skeleton(_MARKDOWN.parse(body))) == like, text
            assert sections_by_hand(body, "card") == sections
            assert "<script" not in body and "<img" not in body
            for snippet in re.findall(r"```python\n(.*?)```", body, re.DOTALL):
                names = {node.id for node in ast.walk(ast.parse(snippet)) if isinstance(node, ast.Name)}
                assert names <= NAMES
            for line in re.findall(r"```json\n(.*?)\n```", body, re.DOTALL):
                assert set(json.loads(line)) == {"category", "concept", "unsafe_prompt", "safe_prompt"}


def test_a_card_is_no_template_for_whoever_takes_it_for_one() -> None:
    body = re.sub(r"```.*?```", "", dataset_text("{{ 7 * 7 }}{% if x %}{# y #}", Recipe()), flags=re.DOTALL)
    assert jinja2.Template(body, keep_trailing_newline=True).render() == body


def test_categories_of_hostile_names_go_through_a_whole_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(dataset_builder.models, "identity", lambda *args, **kwargs: T2I)
    names = sorted({text for text in TEXTS if text.strip() and "\ud800" not in text and "\u0000" not in text})[:60]
    kinds = features(names, images=False)
    rows = [
        {
            **dict.fromkeys(kinds, "x"),
            "category": index,
            "unsafe_verdict": [],
            "safe_verdict": [],
            "seed": 1,
            "pair_id": f"{index}",
        }
        for index in range(len(names))
    ]
    path = tmp_path / shard_name("prompts", "train", 0, 1)
    path.parent.mkdir()
    pq.write_table(datasets.Dataset.from_list(rows, features=kinds).with_format("arrow")[:], path)
    manifest = {"name": hostile(7), "version": hostile(8), "files": {path.relative_to(tmp_path).as_posix(): {}}}
    (tmp_path / "coprov2.json").write_text(json.dumps(manifest))
    text = write_dataset_card(Recipe(), tmp_path).read_text("utf8")
    metadata = read_metadata(text, "card")
    assert card_problems(metadata, "data") == []
    (info,) = [metadata["dataset_info"]] if isinstance(metadata["dataset_info"], dict) else metadata["dataset_info"]
    stated = next(feature for feature in info["features"] if feature["name"] == "category")["dtype"]["class_label"]
    # The names themselves stay what they are, or the rows could not be read.
    assert list(stated["names"].values()) == names
    assert yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n")) == metadata
    # Written again, it finds its sections where they are, not in the names.
    assert write_dataset_card(Recipe(), tmp_path).read_text("utf8") == text


@pytest.mark.parametrize("name", ["a/b", '"); import os #', "a b", "a\nb", "../x", "<b>", ""])
def test_a_recipe_cannot_name_a_repository_that_cannot_be(name: str) -> None:
    recipe = Recipe()
    recipe.publish.namespace = name
    with pytest.raises(RecipeError, match=r"publish\.namespace and publish\.dataset") as caught:
        dataset_text("plain", recipe)
    assert "\n" not in str(caught.value)
