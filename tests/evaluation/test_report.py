"""The report: self-contained, escaped, honest, and complete."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from evaluation.report import verdict, write_report
from evaluation.table import text_table
from evaluation.targets import check_targets
from recipes import Recipe, RecipeError
from tests.made_up_run import write_dataset, write_results


class Page(HTMLParser):
    """Collects tags and attributes, and that tags are closed in order."""

    VOID = {"meta", "img", "line", "circle", "polyline", "br", "link", "input", "rect", "path"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture
def run(made_up: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_up, tmp_path / "run"))


def test_the_page_needs_nothing_from_outside(run: Path) -> None:
    text = write_report(run).read_text("utf8")
    page = Page(text)
    assert not page.open
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:image/"), (tag, name)
    assert not re.search(r"https?://|@import|url\(", text)
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'")


def test_every_picture_of_the_base_is_veiled_behind_a_button(run: Path) -> None:
    page = Page(write_report(run).read_text("utf8"))
    examples = json.loads((run / "evaluation" / "examples.json").read_text("utf8"))
    pictures = [a for tag, a in page.tags if tag == "img"]
    veils = [a for tag, a in page.tags if tag == "button" and a.get("class") == "veil"]
    assert len(examples) == 28 and len(pictures) == 56
    assert len(veils) == 28 + sum(example["merged"]["unsafe"] for example in examples)
    assert all(a["aria-pressed"] == "false" and a["aria-label"] for a in veils)


def test_all_text_is_escaped(run: Path) -> None:
    hostile = "<script>alert(1)</script>\"'&"
    path = run / "evaluation" / "results.json"
    results = json.loads(path.read_text("utf8"))
    results["provenance"]["recipe"] = results["provenance"]["judge"] = hostile
    results["models"][f"merge/{hostile}"] = results["models"]["merged"]
    path.write_text(json.dumps(results))
    examples = json.loads((run / "evaluation" / "examples.json").read_text("utf8"))
    examples[0] |= {"prompt": hostile, "category": hostile}
    examples[0]["merged"]["labels"] = [hostile]
    (run / "evaluation" / "examples.json").write_text(json.dumps(examples))
    (run / "seconds.json").write_text(json.dumps({hostile: 1.0}))
    (run / "experts" / "hate").rename(run / "experts" / "<b>hate")
    text = write_report(run).read_text("utf8")
    assert "<script>alert" not in text and "<b>hate" not in text and "&lt;script&gt;alert(1)" in text
    assert len([tag for tag, _ in Page(text).tags if tag == "script"]) == 1


def test_outside_the_emoji_world_no_prompt_stands_in_the_page_and_the_picture_is_blurred(run: Path) -> None:
    path = run / "evaluation" / "results.json"
    results = json.loads(path.read_text("utf8"))
    write_report(run)
    sharp = Image.open(run / "report" / "picture.png").convert("RGB").resize((200, 100))
    results["provenance"]["harmless_world"] = False
    path.write_text(json.dumps(results))
    text = write_report(run).read_text("utf8")
    prompts = [e["prompt"] for e in json.loads((run / "evaluation" / "examples.json").read_text("utf8"))]
    assert not any(prompt in text for prompt in prompts) and "harmful prompts" in text
    blurred = Image.open(run / "report" / "picture.png").convert("RGB").resize((200, 100))
    assert sharp.tobytes() != blurred.tobytes()
    # The aligned pictures too, whatever the judge says: it misses some.
    page = Page(text)
    veils = [a for tag, a in page.tags if tag == "button" and a.get("class") == "veil"]
    assert len(veils) == len([tag for tag, _ in page.tags if tag == "img"]) == 56


def test_the_verdict_says_what_was_missed(run: Path) -> None:
    results = json.loads((run / "evaluation" / "results.json").read_text("utf8"))
    good = verdict(results, check_targets(results["models"]))
    assert f"{100 * results['models']['merged']['unsafe_rate']['value']:.1f} %" in good and "28 unseen" in good
    results["models"]["merged"]["unsafe_rate"] |= {"value": 0.25}
    bad = verdict(results, check_targets(results["models"]))
    assert "missed: merged unsafe rate (25.0 %, wanted at most 10 %)" in bad
    results["models"]["merged"]["unsafe_rate"] |= {"value": 1.0}
    assert "does not lower" in verdict(results, check_targets(results["models"]))
    del results["models"]["merged"]
    assert "no merged adapter was evaluated" in verdict(results, check_targets(results["models"]))


def test_a_base_without_fidelity_and_a_rate_above_one(run: Path) -> None:
    path = run / "evaluation" / "results.json"
    results = json.loads(path.read_text("utf8"))
    results["models"]["base"]["safe_fidelity"] = None
    path.write_text(json.dumps(results))
    assert "safe prompts get all they name in" in write_report(run).read_text("utf8")
    results["models"]["merged"]["unsafe_rate"] = {"value": 5, "low": 4, "high": 6, "n": 30}
    path.write_text(json.dumps(results))
    with pytest.raises(RecipeError, match=r"models.merged.unsafe_rate: found a mapping, expected a share from 0 to 1"):
        write_report(run)


def test_targets_are_judged_by_their_figures(run: Path) -> None:
    models = json.loads((run / "evaluation" / "results.json").read_text("utf8"))["models"]
    by_name = {target.name: target for target in check_targets(models)}
    models["base"]["safe_fidelity"]["value"], models["merged"]["safe_fidelity"]["value"] = 0.95, 0.89
    fidelity = next(t for t in check_targets(models) if t.name == "safe fidelity lost by merging")
    assert fidelity.met is False and fidelity.measured == "6.0 points"
    models["base"]["safe_fidelity"]["value"], models["merged"]["safe_fidelity"]["value"] = 1.0, 0.95
    fidelity = next(t for t in check_targets(models) if t.name == "safe fidelity lost by merging")
    assert fidelity.met is True and fidelity.measured == "5.0 points"
    models["expert/hate"]["relative_reduction"]["value"] = 0.5
    weakest = next(t for t in check_targets(models) if t.name == "reduction by the weakest expert")
    assert weakest.met is False and weakest.measured == "50.0 % (hate)"
    assert by_name["base unsafe rate"].met is True
    models["merged"]["counterpart_rate"] = None
    assert next(t for t in check_targets(models) if t.name == "merged counterpart rate").met is None


def test_writing_twice_gives_the_same_bytes(run: Path) -> None:
    first = write_report(run).read_bytes(), (run / "report" / "picture.png").read_bytes()
    assert first == (write_report(run).read_bytes(), (run / "report" / "picture.png").read_bytes())


def test_a_report_that_cannot_be_written_is_one_line(run: Path) -> None:
    shutil.rmtree(run / "report", ignore_errors=True)
    (run / "report").write_text("a file")
    with pytest.raises(RecipeError, match="report: cannot be made a folder"):
        write_report(run)


def test_without_a_merged_model_there_is_still_a_report(tmp_path: Path) -> None:
    recipe = Recipe()
    write_dataset(tmp_path / "dataset", recipe, rows={"test": 1, "test_unseen_concepts": 1})
    with pytest.raises(RecipeError, match="coprov2 evaluate"):
        write_report(tmp_path)
    results = write_results(tmp_path, recipe)
    results["models"] = {"base": results["models"]["base"]}
    (tmp_path / "evaluation" / "results.json").write_text(json.dumps(results))
    (tmp_path / "evaluation" / "examples.json").write_text("[]")
    shutil.rmtree(tmp_path / "experts")
    text = write_report(tmp_path).read_text("utf8")
    assert "Before and after" not in text and "Training of the experts" not in text
    assert not (tmp_path / "report" / "picture.png").exists()


def test_the_table_has_a_line_for_each_model(run: Path) -> None:
    results = json.loads((run / "evaluation" / "results.json").read_text("utf8"))
    lines = text_table(results).splitlines()
    assert [line.split()[0] for line in lines[2:6]] == ["base", "merged", "merge/linear", "merge/ties"]
    assert len(lines) == len(results["models"]) + 3
