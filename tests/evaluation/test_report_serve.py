"""`coprov2 report`: what is built of which results, what of them is refused, and what the server gives out."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from coprov2 import app
from evaluation.picture import write_picture
from evaluation.report import write_report
from evaluation.report.serve import make_app
from evaluation.report.study_part import stem
from recipes import RecipeError
from tests.made_up_studies import write_scaling, write_study, write_suite

HOSTILE = "<script>alert(1)</script>\"'&\u202e\ud800\x00"


def client(root: Path) -> TestClient:
    return TestClient(make_app(root), base_url="http://127.0.0.1:8089", raise_server_exceptions=False)


def links(page: str) -> list[str]:
    return [part.split('"')[0] for part in page.split('href="')[1:] if part.startswith("/runs/")]


@pytest.fixture
def runs(made_up: Path, tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    shutil.copytree(made_up, root / "one", ignore=shutil.ignore_patterns("dataset"))
    write_study(root / "deeper" / "study")
    write_report(root / "one")
    return root


def test_one_page_holds_every_result_of_a_folder(
    made_up: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made_up / "evaluation", tmp_path / "evaluation")
    write_suite(tmp_path)
    write_study(tmp_path)
    result = CliRunner().invoke(app, ["report", "build", str(tmp_path)])
    assert result.exit_code == 0, result.output
    text = (tmp_path / "report" / "index.html").read_text("utf8")
    assert text.count('class="verdict"') == 3
    for words in ("Evaluation: emoji-world", "Suite: paper", "Merge study: emoji-world", "give --prompts"):
        assert words in text
    alone = write_report(tmp_path / "suites" / "paper").read_text("utf8")
    assert alone.count('class="verdict"') == 1 and "Suite: paper" in alone
    monkeypatch.chdir(tmp_path / "suites" / "paper")
    assert write_report(Path()).read_text("utf8") == alone


def test_two_rows_of_a_suite_that_are_called_alike_are_refused(tmp_path: Path) -> None:
    path = write_suite(tmp_path)
    value = json.loads(path.read_text("utf8"))
    value["rows"].append(value["rows"][0] | {"row": "another"})
    path.write_text(json.dumps(value))
    with pytest.raises(RecipeError, match=r"rows\[10\]\.title: found `IP, coprov2_test`, expected a title"):
        write_report(tmp_path)


@pytest.mark.parametrize("write", [write_study, write_scaling])
def test_a_study_shows_no_pictures_of_an_evaluation_beside_it(made_up: Path, tmp_path: Path, write: Any) -> None:
    shutil.copytree(made_up / "evaluation", tmp_path / "evaluation")
    results = tmp_path / "evaluation" / "results.json"
    value = json.loads(results.read_text("utf8"))
    value["provenance"]["harmless_world"] = False
    results.write_text(json.dumps(value))
    pictures = write_report(tmp_path).read_text("utf8").count("<img")
    assert pictures
    # The study's world is harmless; the evaluation's is not, and stays behind its veils.
    write(tmp_path)
    text = write_report(tmp_path).read_text("utf8")
    assert text.count("<img") == pictures == text.count('class="veil"')


def test_a_suites_page_keeps_published_figures_under_their_own_label(tmp_path: Path) -> None:
    write_suite(tmp_path)
    text = write_report(tmp_path).read_text("utf8")
    row = text.split('<th scope="row">IP, i2p</th>')[1].split("</tr>")[0]
    cells = row.split("<td")
    assert "42.2 % → 13.7 %: AlignGuard, CASG (CVPR 2026), SD1.5" in cells[-2] and "13.7" not in "".join(cells[1:6])
    assert "paper_i2p, c0ffeec0ffee" in cells[-1] and "and 1 more below" in cells[-2]
    assert "protocol not stated" in text and "FID on COCO-10K" in text and "changed: steps=4" in text


def test_the_two_kinds_of_a_merge_stand_in_one_row_with_their_p_values(tmp_path: Path) -> None:
    write_study(tmp_path)
    text = write_report(tmp_path).read_text("utf8")
    table = text.split("<caption>Merges without and with the same joint tuning")[1].split("</table>")[0]
    for name in ("least_squares", "ties"):
        assert table.count(f'<th scope="row">{name}</th>') == 1
    assert "-tuned" not in table and table.count("not made with tuning") >= 5 and ">0.012" in table
    assert "sft, seed 3" in text and "stopped before it was trained" in text
    names = ("comerge-tuned", "comerge_tuned", "comerge (tuned)", "comerge-untuned", "tuned comerge", "comerge")
    assert {stem(name) for name in names} == {"comerge"} and stem("attuned") == "attuned"


def test_texts_of_results_are_escaped_cleaned_and_cut(tmp_path: Path) -> None:
    for write in (write_suite, write_study, write_scaling):
        path = write(tmp_path)
        value = json.loads(path.read_text("utf8"))
        rows = value.get("rows") or value["curves"]
        rows[0] |= {"name": HOSTILE, "title": HOSTILE, "group": HOSTILE, "empty": HOSTILE * 99, "metric": HOSTILE}
        rows[0]["per_category"] = {HOSTILE: {"unsafe_rate": None, "base": None}}
        value["provenance"][HOSTILE] = HOSTILE
        value["recipe"] = value["suite"] = HOSTILE
        path.write_text(json.dumps(value))
        text = write_report(tmp_path).read_text("utf8")
        assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text and text.count("<script>") == 1
        assert not {"\u202e", "\x00"} & set(text) and "'unsafe-inline'" not in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value["rows"][1].pop("name"), r"study.json: rows\[1\].name: found nothing, expected a value"),
        (lambda value: value["rows"][2]["measures"].update(unsafe_rate="high"), r"rows\[2\].measures.unsafe_rate"),
        (lambda value: value["rows"][2]["measures"]["unsafe_rate"].update(low=2.0), r"low <= value <= high"),
        (lambda value: value["rows"][2].update(merge_seconds=float("nan")), r"holds NaN, which is no JSON"),
        # Figures that cannot be are not shown as if they were: a p below 0 read "< 0.001".
        (lambda value: value["rows"][2]["paired"].update(p=-3), r"rows\[2\].paired.p: found `-3`, expected a p-value"),
        (lambda value: value["rows"][2]["paired"].update(p_holm=7), r"paired.p_holm: found `7`, expected a p-value"),
        (lambda value: value["rows"][2]["paired"].update(difference=0.9), r"paired: .*low <= difference <= high"),
        (lambda value: value["rows"][2]["measures"].update(unsafe_rate=1.5), r"a share from 0 to 1, not 1.5 to 1.5"),
        (lambda value: value["rows"][2]["measures"].update(drift=-0.1), r"measures.drift: .*a share from 0 to 1"),
        (lambda value: value["rows"][2]["measures"].update(fidelity_lost=-1.5), r"a share from -1 to 1"),
        (lambda value: value.update(rows=[]), r"study.json: rows: found none"),
        (lambda value: value.update(kind="other"), r"kind: found `other`, expected merge or scaling"),
        (lambda value: value.update(confidence=95), r"confidence: found `95`, expected a number between 0 and 1"),
        (lambda value: value.update(rows=7), r"rows: found `7`, expected a list"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(tmp_path: Path, change: Any, said: str) -> None:
    path = write_study(tmp_path)
    value = json.loads(path.read_text("utf8"))
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(RecipeError, match=said):
        write_report(tmp_path)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    "ends", [(1e17, 1e17), (-1e308, 1e308), (0.0, 5e-324), (3.0, 3.0000000000000004), (1e15, 1e15)]
)
def test_an_interval_of_any_width_is_drawn_or_refused(tmp_path: Path, ends: tuple[float, float]) -> None:
    path = write_suite(tmp_path)
    value = json.loads(path.read_text("utf8"))
    for row in value["rows"]:
        if row["metric"] == "clip_score" and row["base"]:
            row["base"] = row["aligned"] = {"value": ends[0], "low": ends[0], "high": ends[1], "n": 3}
    path.write_text(json.dumps(value))
    if max(map(abs, ends)) > 1e15:
        with pytest.raises(RecipeError, match=r"expected a number from -1e\+15 to 1e\+15"):
            write_report(tmp_path)
        return
    text = write_report(tmp_path).read_text("utf8")
    assert 'cx="nan' not in text and 'cx="inf' not in text


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[" * 60 + b"]" * 60, b"[]", b"7"])
def test_a_broken_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "study.json").write_bytes(content)
    with pytest.raises(RecipeError) as error:
        write_report(tmp_path)
    assert "\n" not in str(error.value) and "study.json" in str(error.value)


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/hostname", "..", "", "link.png", "x" * 300, 10**300])
def test_examples_name_pictures_of_their_own_folder_only(made_up: Path, tmp_path: Path, name: str | int) -> None:
    shutil.copytree(made_up / "evaluation", tmp_path / "run" / "evaluation")
    examples = tmp_path / "run" / "evaluation" / "examples.json"
    value = json.loads(examples.read_text("utf8"))
    shutil.copy(examples.parent / "examples" / value[0]["base"]["picture"], tmp_path / "secret.png")
    (examples.parent / "examples" / "link.png").symlink_to(tmp_path / "secret.png")
    value[0]["base"]["picture"] = name
    examples.write_text(json.dumps(value))
    for write in (write_report, write_picture):
        with pytest.raises(RecipeError, match=r"examples.json: \[0\].base.picture: found"):
            write(tmp_path / "run")


@pytest.mark.parametrize("content", [b"{", b'{"history": 7}', b"\xff", None])
def test_a_broken_training_history_is_named(made_up: Path, tmp_path: Path, content: bytes | None) -> None:
    shutil.copytree(made_up / "evaluation", tmp_path / "evaluation")
    path = tmp_path / "experts" / "hate" / "training.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(
        b'[{"step": 1, "loss": NaN}, {"step": "x", "loss": 1}, {"step": 2, "loss": 0.5}, {"step": 1%s, "loss": 1}]'
        % (b"0" * 400)
    )
    assert "Training of the experts" in write_report(tmp_path).read_text("utf8")
    path.unlink()
    if content is None:
        # Whoever opened it would wait until somebody writes.
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"hate.training\.json"):
        write_report(tmp_path)


def test_a_picture_that_is_none_is_named(made_up: Path, tmp_path: Path) -> None:
    shutil.copytree(made_up / "evaluation", tmp_path / "evaluation")
    examples = json.loads((tmp_path / "evaluation" / "examples.json").read_text("utf8"))
    picture = tmp_path / "evaluation" / "examples" / examples[0]["base"]["picture"]
    picture.write_bytes(picture.read_bytes()[:200])
    for write in (write_report, write_picture):
        with pytest.raises(RecipeError, match=f"{picture.name}: no whole PNG"):
            write(tmp_path)
    picture.unlink()
    os.mkfifo(picture)
    with pytest.raises(RecipeError, match=f"{picture.name}: no whole PNG"):
        write_report(tmp_path)


def test_examples_of_other_spelling_are_drawn_as_the_report_reads_them(made_up: Path, tmp_path: Path) -> None:
    shutil.copytree(made_up / "evaluation", tmp_path / "evaluation")
    examples = tmp_path / "evaluation" / "examples.json"
    value = json.loads(examples.read_text("utf8"))
    for number, example in enumerate(value):
        example |= {"aligned": example.pop("merged"), "category": number % 2}
    examples.write_text(json.dumps(value))
    write_report(tmp_path)
    assert (tmp_path / "report" / "picture.png").is_file()


def test_the_index_lists_the_runs_and_leads_to_reports_and_pictures(runs: Path) -> None:
    web = client(runs)
    index = web.get("/")
    assert index.status_code == 200 and "deeper/study" in index.text and "has the lowest unsafe rate" in index.text
    policy = index.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "unsafe-inline" not in policy
    found = {link: web.get(link) for link in links(index.text)}
    assert len(found) == 2 and all(answer.status_code == 200 for answer in found.values())
    assert all(answer.headers["content-security-policy"].startswith("sandbox") for answer in found.values())
    stored = (runs / "one" / "report" / "index.html").read_bytes()
    assert stored in [answer.content for answer in found.values()]
    pictures = [part.split('"')[0] for part in index.text.split('src="')[1:]]
    assert [web.get(address).headers["content-type"] for address in pictures] == ["image/png"]
    # A report that was never built is drawn, and not written.
    assert not (runs / "deeper" / "study" / "report").exists()


def test_a_report_older_than_its_results_is_drawn_anew(runs: Path) -> None:
    page = runs / "one" / "report" / "index.html"
    page.write_text("an old page")
    os.utime(page, (1, 1))
    web = client(runs)
    index = web.get("/").text
    assert "older than these results" in index
    assert all("an old page" not in web.get(link).text for link in links(index))


def test_what_changes_below_the_folder_shows_at_once(runs: Path) -> None:
    web = client(runs)
    assert "later" not in web.get("/").text
    write_scaling(runs / "later")
    assert "later" in web.get("/").text
    shutil.rmtree(runs / "later")
    assert "later" not in web.get("/").text
    path = runs / "deeper" / "study" / "study.json"
    path.write_text("{")
    os.utime(path, (time.time() + 9, time.time() + 9))
    answer = web.get("/")
    assert answer.status_code == 200 and "Its results cannot be shown" in answer.text and str(runs) not in answer.text


@pytest.mark.parametrize(
    "address",
    [
        "/../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "/runs/..%2f..%2fsecret/report.html",
        "/runs/../../secret",
        "/runs/one/report.html",
        "/one/evaluation/results.json",
        "/runs/%00/report.html",
        "/runs/{key}/evaluation/results.json",
        "/runs/{key}/..%2f..%2fsecret/picture.png",
        "/runs/{key}/",
    ],
)
def test_no_address_leads_anywhere_else(runs: Path, address: str) -> None:
    (runs.parent / "secret").write_text("secret words")
    web = client(runs)
    key = links(web.get("/").text)[0].split("/")[2]
    answer = web.get(address.replace("{key}", key))
    assert answer.status_code == 404 and "secret words" not in answer.text and str(runs) not in answer.text


def test_links_are_not_followed(runs: Path) -> None:
    outside = runs.parent / "outside"
    write_study(outside)
    (runs / "linked").symlink_to(outside)
    (runs / "within").mkdir()
    (runs / "within" / "study.json").symlink_to(outside / "study.json")
    web = client(runs)
    index = web.get("/").text
    assert "linked" not in index and "within" not in index
    picture, page = runs / "one" / "report" / "picture.png", runs / "one" / "report" / "index.html"
    for path in (picture, page):
        (runs.parent / path.name).write_bytes(path.read_bytes() + b"secret words")
        path.unlink()
        path.symlink_to(runs.parent / path.name)
    index = web.get("/").text
    assert "picture.png" not in index
    one = next(link for link in links(index) if index.split(f'{link}">')[1].startswith("one<"))
    drawn = web.get(one)
    assert drawn.status_code == 200 and "secret words" not in drawn.text
    assert web.get(one.replace("report.html", "picture.png")).status_code == 404
    (runs / "one" / "evaluation" / "examples" / "new.png").symlink_to(runs.parent / "picture.png")
    assert web.get(one).status_code == 500 and "a link" in client(runs).get("/").text


def test_it_answers_reads_from_this_machine_only(runs: Path) -> None:
    web = client(runs)
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert web.request(method, "/").status_code == 405
    assert web.head("/").status_code == 200
    assert web.get("/", headers={"Host": "elsewhere.example:8089"}).status_code == 400
    with pytest.raises(RecipeError, match="no such folder"):
        make_app(runs / "nothing")
