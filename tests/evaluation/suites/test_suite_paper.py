"""`coprov2 evaluate --suite paper` on tiny random checkpoints of the real classes, from folders to results.json."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from coprov2 import app
from evaluation.alone import alone
from evaluation.intervals import wilson
from evaluation.metrics.distance import GaussianStatistics
from evaluation.prompt_sets.definition import load_definition
from evaluation.prompt_sets.loading import NotAtHandError
from evaluation.report import write_report
from evaluation.suites import measuring
from evaluation.suites.combining import combine, read_suite
from evaluation.suites.roles import Models
from evaluation.suites.run import NO_ADAPTER, Given, run_suite
from evaluation.suites.suite import Suite, SuiteRow, load_suite, published_figures
from evaluation.suites.table import suite_table
from recipes import RecipeError
from tests.evaluation.suites.conftest import Machine

ROWS = 10
COCO = ("coco_3k", "coco_30k")


def by_row(results: dict) -> dict[str, dict]:
    return {row["row"]: row for row in results["rows"]}


@pytest.fixture(scope="module")
def whole(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The suite's results on a machine that has everything; read only."""
    out = tmp_path_factory.mktemp("whole")
    return out, run_suite(load_suite("paper"), machine.given(), out)


@pytest.mark.slow
def test_every_row_is_filled_where_everything_is_at_hand(whole: tuple[Path, dict]) -> None:
    out, results = whole
    assert results == json.loads((out / "suites" / "paper" / "results.json").read_text("utf8"))
    rows = by_row(results)
    assert len(rows) == len(results["rows"]) == ROWS
    for name, row in rows.items():
        assert row["aligned"] is not None and row["difference"] is not None, name
        if name == "over_refusal":
            assert row["base"] is None and row["empty"].startswith("base: ")
        else:
            assert row["base"] is not None and row["empty"] is None, (name, row["empty"])
        assert (
            row["difference"]["value"]
            == pytest.approx(row["aligned"]["value"] - (row["base"] or {"value": 0})["value"], abs=2e-6)
            or name == "over_refusal"
        )
        # The settings are not the paper's, and every name says so.
        assert "steps=2" in row["protocol"]["name"] and "steps=2" in row["protocol"]["changed"]
        assert len(row["protocol"]["sha256"]) == 64
    for name in ("ip_i2p", "clip_score_coco_3k", "over_refusal"):
        assert 0 <= rows[name]["test"]["p"] <= 1
    assert rows["fid_coco_3k"]["test"] is None and rows["fid_coco_3k"]["base"]["low"] is None
    assert any(note.startswith("6 features of inception.pt (sha256 ") for note in rows["fid_coco_3k"]["notes"])
    for name in ("clip_score_coco_3k", "over_refusal"):
        assert any(re.fullmatch(r"CLIPScore by clip@\w+, given for laion/.*", note) for note in rows[name]["notes"])
    assert re.search(r"margin 5: \d+ of \d+ fall beyond it, \d+ rise", rows["over_refusal"]["notes"][0])
    assert any("rank-deficient" in note or "real pictures" in note for note in rows["fid_coco_3k"]["notes"])
    assert "rows=7 of 4703" in rows["ip_i2p"]["protocol"]["name"]
    assert rows["ip_i2p"]["n"] == 7 and set(rows["ip_i2p"]["per_category"]) == {"fruit", "toys"}
    assert sum(cell["base"]["n"] for cell in rows["ip_i2p"]["per_category"].values()) == 9
    sets = results["provenance"]["prompt_sets"]
    assert sets["paper-i2p"]["source"] == "i2p.csv" and len(sets["paper-i2p"]["sha256"]) == 64
    assert results["provenance"]["models"]["fid_coco_3k"]["features"].startswith("sha256:")
    text = suite_table(results)
    assert "IP, I2P" in text and "CASG 13.7 % from 42.2 %" in text
    # Prompts of unsafe sets stand in no result.
    assert "in the park" not in json.dumps(results) and "in the park" not in text


@pytest.mark.slow
def test_judged_sets_are_shown_before_and_after_without_their_prompts(
    whole: tuple[Path, dict], machine: Machine
) -> None:
    folder = whole[0] / "suites" / "paper"
    text = (folder / "examples.json").read_text("utf8")
    examples = json.loads(text)
    assert "in the park" not in text and "prompt" not in text
    by_category: dict[str, int] = {}
    for example in examples:
        by_category[example["category"]] = by_category.get(example["category"], 0) + 1
        for side in ("base", "aligned"):
            assert Image.open(folder / "examples" / example[side]["picture"]).size == (64, 64)
    # Seven prompts of I2P, of which each third is of both categories and stands under the first of them.
    assert by_category["i2p: fruit"] == 4 and by_category["i2p: toys"] == 2
    assert {name.partition(":")[0] for name in by_category} == {
        "coprov2_test", "i2p", "unsafe_diffusion_1434", "unsafe_diffusion_904", "t2vsafetybench"
    }  # fmt: skip
    assert max(by_category.values()) == 4
    page = write_report(whole[0]).read_text("utf8")
    assert "Before and after" in page and page.count("data:image/") == 2 * len(examples)
    # All are veiled: nobody says that this world is harmless.
    assert page.count('class="veil"') >= len(examples)


@pytest.mark.slow
def test_a_finished_suite_is_returned_as_it_is_and_draws_nothing(
    whole: tuple[Path, dict], machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, results = whole
    monkeypatch.setattr(measuring, "METRICS", {})
    before = (out / "suites" / "paper" / "results.json").stat().st_mtime_ns
    assert run_suite(load_suite("paper"), machine.given(), out) == results
    assert (out / "suites" / "paper" / "results.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_numbers_are_those_of_the_pictures_counted_again(whole: tuple[Path, dict], machine: Machine) -> None:
    """Drawn anew by the bare pipeline, judged by the bare judge, and counted by hand."""
    import torch
    from diffusers import StableDiffusionPipeline

    from dataset_builder.judges import load_judge
    from dataset_builder.keys import seed_from
    from evaluation.protocols.protocol import load_protocol
    from evaluation.suites.roles import Models

    config, _ = Models(machine.models).judge(load_protocol("paper-t2vsafetybench"))
    texts = [line.split(",")[0].strip('"') for line in _lines(machine.prompts["t2vsafetybench"])]
    prompts = [f"{text}, t2vsafetybench {index}" for index, text in enumerate(texts)]
    pipeline = StableDiffusionPipeline.from_pretrained(machine.base)
    pipeline.set_progress_bar_config(disable=True)
    images = []
    for start in range(0, len(prompts), 4):
        part = prompts[start : start + 4]
        seeds = [seed_from(0, str(start + index + 1)) for index in range(len(part))]
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        images += pipeline(
            prompt=part, generator=generators, num_inference_steps=2, guidance_scale=7.5, height=64, width=64
        ).images
    unsafe = [verdict.unsafe for verdict in load_judge(config).judge(images)]
    row = by_row(whole[1])["ip_t2vsafetybench"]
    assert row["base"] == wilson(sum(unsafe), len(unsafe))


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()[1:]


@pytest.mark.slow
def test_what_is_not_at_hand_leaves_rows_empty_with_the_reason(machine: Machine, tmp_path: Path) -> None:
    models = {role: machine.models[role] for role in ("clip_score",)}
    prompts = {name: machine.prompts[name] for name in ("coco_3k", "unsafe_diffusion_904")}
    given = machine.given(models=models, prompts=prompts, adapter=None, limit=3)
    results = run_suite(load_suite("paper"), given, tmp_path)
    rows = by_row(results)
    assert "--prompts coprov2_test=PATH" in rows["ip_coprov2"]["empty"]
    assert "AIML-TUDA/i2p" in rows["ip_i2p"]["empty"]
    assert rows["ip_unsafe_diffusion_904"]["empty"] == (
        "the judge q16's tuned prompts are not at hand; give them: --model q16_prompts=FILE"
    )
    assert "--model fid_reference=PATH" in rows["fid_coco_3k"]["empty"]
    for name in ("ip_coprov2", "fid_coco_3k", "clip_score_coco_30k"):
        assert rows[name]["base"] is None and rows[name]["aligned"] is None and rows[name]["n"] == 0
    filled = rows["clip_score_coco_3k"]
    assert filled["base"]["n"] == 3 and filled["aligned"] is None and filled["empty"] == NO_ADAPTER
    assert "limit=3" in filled["protocol"]["name"] and "a seeded sample of 3 prompts" in filled["notes"]


def test_what_was_given_and_is_wrong_is_an_error_before_anything_is_drawn(machine: Machine, tmp_path: Path) -> None:
    suite = load_suite("paper")
    broken = tmp_path / "broken.csv"
    broken.write_text('prompt,category\n"a kite",toys\n"  ",toys\n')
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("no CLIP")
    (tmp_path / "junk.npz").write_bytes(b"no zip")
    np.savez(tmp_path / "five.npz", mu=np.zeros(5), sigma=np.eye(5))
    np.save(tmp_path / "narrow.npy", np.ones((2, 5), np.float32))
    theirs = GaussianStatistics(6, "sha256:another")
    theirs.add(np.eye(6))
    theirs.save(tmp_path / "theirs.safetensors")

    def instead(role: str, path: Path) -> dict[str, dict[str, Path]]:
        return {"models": {**machine.models, role: path}}

    cases = [
        ({"prompts": {"i2p": broken}}, r"broken\.csv: row 2: the prompt is empty"),
        ({"any_rows": False}, r"6 prompts, expected 8000 of coprov2_test"),
        ({"prompts": {"i3p": broken}}, r"--prompts: 'i3p' is unknown; did you mean i2p"),
        ({"prompts": {"emoji_world": broken}}, r"no row of the suite paper draws it"),
        ({"pins": {"i2p": "0" * 64}}, r"i2p have the SHA-256 [0-9a-f]{64}, not the pinned 0000"),
        ({"models": {**machine.models, "q16_prompts": broken}}, r"broken\.csv: expected a \.safetensors or \.npy"),
        ({"models": {**machine.models, "clip_score": machine.base}}, r"base"),
        ({"models": {**machine.models, "inception": machine.folder / "q16.npy"}}, r"--model inception: .*q16\.npy"),
        (instead("fid_reference", tmp_path / "junk.npz"), r"junk\.npz: expected an \.npz with `mu` and `sigma`"),
        (instead("fid_reference", tmp_path / "five.npz"), r"five\.npz: statistics of 5 features, .* given has 6"),
        (instead("fid_reference", tmp_path / "theirs.safetensors"), r"features of two networks .*sha256:another"),
        (instead("q16", tmp_path / "text"), r"judge\.model: .*text: expected a CLIP"),
        (instead("q16", machine.base / "text_encoder"), r"found a model of type clip_text_model"),
        (instead("q16_prompts", tmp_path / "narrow.npy"), r"narrow\.npy: embeddings of 5; those of .* have 12"),
        ({"adapter": tmp_path}, r"pytorch_lora_weights\.safetensors: no such file"),
        ({"base": str(tmp_path / "nothing")}, r"expected emoji-world, a folder, or a Hub id"),
        ({"overrides": ["stepz=4"]}, r"stepz: unknown field .*did you mean steps"),
        ({"overrides": ["prompt_set=i2p"]}, r"write a protocol of your own"),
    ]
    for changes, message in cases:
        with pytest.raises(RecipeError, match=message) as caught:
            run_suite(suite, machine.given(**changes), tmp_path / "out")
        assert not isinstance(caught.value, NotAtHandError) and "\n" not in str(caught.value)
        assert "a kite" not in str(caught.value)
    assert not (tmp_path / "out" / "suites" / "pictures").exists()


@pytest.mark.slow
def test_results_under_two_protocols_stand_in_no_column_together(
    whole: tuple[Path, dict], machine: Machine, tmp_path: Path
) -> None:
    out, results = whole
    other = tmp_path / "other"
    prompts = {"unsafe_diffusion_904": machine.prompts["unsafe_diffusion_904"]}
    given = machine.given(prompts=prompts, overrides=[*machine.overrides, "guidance_scale=3"])
    run_suite(load_suite("paper"), given, other)
    found = {"one": read_suite(out / "suites" / "paper"), "two": read_suite(other / "suites" / "paper")}
    with pytest.raises(RecipeError, match=r"differ in guidance_scale: 7\.5 and 3\.0") as caught:
        combine(found)
    assert "changed: steps=2" in str(caught.value)
    same = combine({"one": found["one"], "again": results})
    assert len(same) == ROWS and set(same[0]["cells"]) == {"one", "again"}
    # The same protocol judged by another Q16.
    judged = json.loads(json.dumps(results))
    judged["provenance"]["models"]["ip_i2p"]["judge"] = "another"
    with pytest.raises(RecipeError, match=r"ip_i2p: one .* differ in models\.judge"):
        combine({"one": found["one"], "two": judged})


def test_damaged_pictures_and_missing_seeds_are_named_before_anything_is_drawn(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluation.suites.run.Drawer", lambda *given: pytest.fail("something was to be drawn"))
    shutil.copytree(machine.folder / "real", tmp_path / "real")
    (tmp_path / "real" / "8.png").write_bytes((tmp_path / "real" / "8.png").read_bytes()[:200])
    given = machine.given(models={**machine.models, "fid_reference": tmp_path / "real"})
    with pytest.raises(RecipeError, match=r"8\.png: is no picture, or a damaged one"):
        run_suite(load_suite("paper"), given, tmp_path)
    # Its grey levels, cut off at 255, would be a white picture.
    Image.fromarray(np.full((40, 48), 30_000, np.uint16)).save(tmp_path / "real" / "8.png")
    with pytest.raises(RecipeError, match=r"8\.png: of mode I;16, expected 8 bits a channel"):
        run_suite(load_suite("paper"), given, tmp_path)
    with pytest.raises(RecipeError, match="gives none for"):
        run_suite(load_suite("paper"), machine.given(overrides=["seed_rule=row"]), tmp_path)


def test_real_pictures_are_known_by_their_contents(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"one")
    (tmp_path / "b.png").write_bytes(b"two")
    before = Models({"fid_reference": tmp_path}).reference_identity
    assert Models({"fid_reference": tmp_path}).reference_identity == before and before.startswith("2 pictures, sha256 ")
    (tmp_path / "b.png").write_bytes(b"six")
    assert Models({"fid_reference": tmp_path}).reference_identity != before


def test_seeds_that_are_drawn_with_stand_in_the_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    definition = load_definition("coprov2_test")
    definition.loader.columns.seed = "seed"
    monkeypatch.setattr("evaluation.suites.run.load_definition", lambda name: definition)
    suite = Suite("one", "one row", [SuiteRow("ip", "IP", "paper-coprov2-test", "inappropriate_probability")])
    found = []
    for seed in (1, 2):
        (tmp_path / f"{seed}.csv").write_text(f'prompt,category,seed\n"a kite",toys,{seed}\n')
        given = Given("emoji-world", prompts={"coprov2_test": tmp_path / f"{seed}.csv"}, any_rows=True)
        for rule in ("row", "prompt"):
            given.overrides = [f"seed_rule={rule}"]
            found.append(run_suite(suite, given, tmp_path / "out")["rows"][0]["protocol"]["sha256"])
    assert found[1] == found[3] and len({*found}) == 3


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = Suite("one", "one row", [SuiteRow("ip", "IP", "paper-t2vsafetybench", "inappropriate_probability")])
    (tmp_path / "suites").write_text("a file")
    with pytest.raises(RecipeError, match="suites: cannot be made a folder"):
        run_suite(suite, Given("emoji-world"), tmp_path)

    def refused(*given: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(RecipeError, match=r"\.lock: cannot be written to"), alone(tmp_path / "other", "suite"):
        pytest.fail("it was held")


def test_one_process_at_a_time_and_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = Suite("one", "one row", [SuiteRow("ip", "IP", "paper-t2vsafetybench", "inappropriate_probability")])
    with alone(tmp_path / "suites", "suite"), pytest.raises(RecipeError, match="another suite works on this folder"):
        run_suite(suite, Given("emoji-world"), tmp_path)

    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("evaluation.suites.run.write_json", full)
    with pytest.raises(RecipeError, match="the disk is full"):
        run_suite(suite, Given("emoji-world"), tmp_path)


def test_options_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    for options, said in (
        (
            ["--suite", "paper", "--base", "emoji-world", "--config", "sd15"],
            "--config: the suite paper takes no recipe",
        ),
        (
            ["--suite", "paper", "--base", "emoji-world", "--set", "metrics=[fid]"],
            "--set metrics=[fid]: the rows of the suite paper say what is measured",
        ),
        (
            ["--suite", "paper", "--base", str(tmp_path), "--revision", "v1"],
            "--revision: " + str(tmp_path) + " is no repository",
        ),
        (["--adapter", "merged=a", "--adapter", "merged=b"], "--adapter merged: is given twice"),
    ):
        found = CliRunner().invoke(app, ["evaluate", "--out", str(tmp_path), *options])
        assert isinstance(found.exception, RecipeError) and said in str(found.exception)


def test_published_figures_are_those_of_the_method_and_name_their_source() -> None:
    figures = published_figures()
    rows = {row.row for row in load_suite("paper").rows}
    assert {figure["row"] for figure in figures} - {None} <= rows
    assert all(figure["note"] and "(" in figure["source"] for figure in figures)
    i2p = {
        f["source"]: (f["value"], f["base"]) for f in figures if f["row"] == "ip_i2p" and f["method"] == "AlignGuard"
    }
    assert i2p == {
        "CASG (CVPR 2026)": (13.7, 42.2),
        "SPOT (arXiv 2602.00616)": (8.0, None),
        "ShieldCLIP (arXiv 2609.39688)": (11.4, 38.1),
        "PSAlign (its own tables)": (32.6, 38.0),
    }
    # No source gives a figure of over-refusal, nor a CLIPScore on our lists.
    assert not {f["row"] for f in figures} & {"over_refusal", "clip_score_coco_3k", "clip_score_coco_30k"}


@pytest.mark.slow
def test_killed_again_and_again_the_suite_ends_in_the_same_results(
    whole: tuple[Path, dict], machine: Machine, tmp_path: Path
) -> None:
    command = [sys.executable, "coprov2.py", "evaluate", *machine.options(), "--out", str(tmp_path)]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    path = tmp_path / "suites" / "paper" / "results.json"
    rng = np.random.default_rng(1)
    kills = 0
    for _ in range(30):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
        # Killed as soon as it has begun to draw, or some time later, wherever it is then.
        deadline = time.monotonic() + 120
        sizes = _files(tmp_path)
        while process.poll() is None and _files(tmp_path) == sizes and time.monotonic() < deadline:
            time.sleep(0.02)
        if process.poll() is None and kills < 3:
            time.sleep(float(rng.uniform(0, 0.5)))
            process.send_signal(signal.SIGKILL)
            kills += 1
        error = process.communicate()[1].decode()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, error[-500:]
    assert kills >= 2 and json.loads(path.read_text("utf8")) == whole[1]


def _files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
