"""The rules of the house: one direction of imports, small modules, no pickles, no file of another machine."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A package may import those with a smaller number.
LEVEL = {
    "recipes": 0,
    "dataset_builder": 1,
    "training": 2,
    "evaluation": 3,
    "benchmarks": 6,
    "cards": 4,
    "hub": 5,
    "coprov2": 6,
}
MODULES = sorted(
    p for name in LEVEL for p in ([ROOT / f"{name}.py"] if name == "coprov2" else (ROOT / name).rglob("*.py"))
)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    own = LEVEL[path.relative_to(ROOT).parts[0].removesuffix(".py")]
    for node in ast.walk(ast.parse(path.read_text("utf8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for name in names:
            assert LEVEL.get(name.split(".")[0], -1) <= own, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_is_past_500_lines(path: Path) -> None:
    assert len(path.read_text("utf8").splitlines()) <= 500
    assert path.name != "utils.py"


def test_nothing_tracked_is_a_pickle() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    files = listed.stdout.split() if listed.returncode == 0 else [str(p) for p in MODULES]
    assert not [f for f in files if f.endswith((".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt"))]


def test_nothing_tracked_names_a_place_of_the_machine_it_was_made_on() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    files = [ROOT / name for name in listed.stdout.split()] if listed.returncode == 0 else MODULES
    # A test may write of such places.
    texts = [path for path in files if path.suffix in (".py", ".json", ".md", ".yaml", ".toml") and path.is_file()]
    texts = [path for path in texts if "tests" not in path.relative_to(ROOT).parts]
    places = ('"/tmp/', '"/root/', '"/home/', str(ROOT))
    assert len(texts) > 50
    assert not [str(p.relative_to(ROOT)) for p in texts if any(place in p.read_text("utf8") for place in places)]
