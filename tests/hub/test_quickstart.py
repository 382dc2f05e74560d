"""The quickstart's chain: what is done is not done again, what changed is, and times add up."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import hub.quickstart as quickstart
from hub.quickstart import Run, lines_to_load, run_stages
from recipes import Recipe
from tests.made_up_run import write_dataset, write_results

NAMES = ["build", "train", "merge", "evaluate", "cards", "report", "publish"]


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stages that write one small file each, made of the file of the stage before; the list says which ran."""
    ran: list[str] = []

    def stage(name: str, before: str | None) -> object:
        def write(run: Run) -> None:
            ran.append(name)
            told = (run.out / f"{before}.txt").read_text() if before else str(run.recipe.seed)
            (run.out / f"{name}.txt").write_text(f"{name} of {told}")

        return (name, write, (f"{name}.txt",))

    made = [stage(name, before) for name, before in zip(NAMES, [None, *NAMES], strict=False)]
    monkeypatch.setattr(quickstart, "STAGES", made)
    return ran


def test_a_second_run_has_nothing_to_do(stages: list[str], tmp_path: Path) -> None:
    run = Run(Recipe(), tmp_path)
    assert run_stages(run, lambda line: None) == stages == NAMES
    seconds = (tmp_path / "seconds.json").read_bytes()
    assert run_stages(run, lambda line: None) == [] and stages == NAMES
    assert (tmp_path / "seconds.json").read_bytes() == seconds and list(json.loads(seconds)) == NAMES


def test_a_changed_file_and_what_follows_from_it_is_made_again(stages: list[str], tmp_path: Path) -> None:
    run = Run(Recipe(), tmp_path)
    run_stages(run, lambda line: None)
    (tmp_path / "merge.txt").write_text("spoiled")
    # The stages after it find the same files as before once it is mended.
    assert run_stages(run, lambda line: None) == ["merge"]
    (tmp_path / "build.txt").unlink()
    assert run_stages(run, lambda line: None) == ["build"]


def test_another_recipe_or_other_code_runs_all_stages(
    stages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stages(Run(Recipe(), tmp_path), lambda line: None)
    assert run_stages(Run(Recipe(seed=1), tmp_path), lambda line: None) == NAMES
    monkeypatch.setattr(quickstart, "code_digest", lambda: "changed")
    assert run_stages(Run(Recipe(seed=1), tmp_path), lambda line: None) == NAMES


def test_a_stage_that_failed_keeps_its_time_and_is_run_again(
    stages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(quickstart.time, "perf_counter", lambda: float(next(clock)))
    made = list(quickstart.STAGES)

    def broken(run: Run) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(quickstart, "STAGES", [*made[:3], ("evaluate", broken, ()), *made[4:]])
    run = Run(Recipe(), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_stages(run, lambda line: None)
    monkeypatch.setattr(quickstart, "STAGES", made)
    assert run_stages(run, lambda line: None) == ["evaluate", "cards", "report", "publish"]
    assert json.loads((tmp_path / "seconds.json").read_text()) == {
        name: 20.0 if name == "evaluate" else 10.0 for name in NAMES
    }


def test_a_finished_run_tells_its_results_without_torch(tmp_path: Path) -> None:
    recipe = Recipe()
    write_dataset(tmp_path / "dataset", recipe)
    write_results(tmp_path, recipe)
    script = """
import sys
from pathlib import Path
import hub.quickstart as quickstart
from recipes import Recipe
quickstart.STAGES = [(name, lambda run: None, patterns) for name, _, patterns in quickstart.STAGES]
(Path(sys.argv[1]) / "hub.json").write_text(sys.argv[2])
for _ in range(2):
    lines = []
    results = quickstart.quickstart(Recipe(), Path(sys.argv[1]), 0, lines.append)
assert sum("done already" in line for line in lines) == 7, lines
text = "\\n".join(lines)
assert "\\nmerged " in text and "index.html" in text and "org/data v1.0.0 of 3 pairs" in text
assert {"build", "evaluate/merged"} <= set(results["seconds"])
assert "torch" not in sys.modules and "diffusers" not in sys.modules
"""
    root = Path(quickstart.__file__).parent.parent
    published = {
        "dataset": {"name": "org/data", "versions": {"v1.0.0": "0" * 40}},
        "adapter": {"name": "org/safety", "versions": {"v1.0.0": "0" * 40}},
        "loaded": {"rows": {"v1.0.0": {"train": 2, "test": 1}}},
    }
    command = [sys.executable, "-c", script, str(tmp_path), json.dumps(published)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_lines_to_load_are_python(tmp_path: Path) -> None:
    lines = lines_to_load(Run(Recipe(), tmp_path))
    compile("\n".join(lines), "lines", "exec")
    assert len(lines) == 2 and str(tmp_path / "dataset") in lines[0] and str(tmp_path / "merged") in lines[1]
