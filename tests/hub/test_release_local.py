"""A release on the real server of this project, by the commands a person types: in processes of their own, so that the
client's default transfer (Xet) and HF_ENDPOINT are what they are everywhere else."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi

from hub.local.process import PACKAGE_ROOT, Running, start
from tests.hub.contributions.world import publish, rows

NAME = "lab/data"
USERS = [
    {"name": user, "tokens": [{"name": "t", "token": f"hf_{user}_token", "role": "write"}]}
    for user in ("maria", "ada", "bob")
]
ORGS = [{"name": "lab", "members": {"maria": "admin", "ada": "read", "bob": "read"}}]


def coprov2(server: Running, home: Path, user: str, *command: str, code: str = "") -> str:
    """What a command says; with `code` that program is run in its place."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment = {
        **kept,
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(home / user),
        "HF_TOKEN": f"hf_{user}_token",
        "PYTHONPATH": str(PACKAGE_ROOT),
        "OMP_NUM_THREADS": "1",
    }
    program = ["-c", code] if code else ["-m", "coprov2", *command]
    done = subprocess.run([sys.executable, *program], env=environment, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_push_contribute_merge_release_and_load_by_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    folder = publish(tmp_path / "dataset")
    with start(tmp_path / "root", users=USERS, orgs=ORGS) as server:
        said = coprov2(server, tmp_path, "maria", "push", "data", str(folder), "--to", NAME)
        assert "new repository" in said and "tag v1.0.0" in said
        maria = HfApi(endpoint=server.url, token="hf_maria_token")
        pq.write_table(pa.Table.from_pylist(rows(6, pictures=True)), tmp_path / "pairs.parquet")
        contribute = ("contribute", str(tmp_path / "pairs.parquet"), "--to", NAME, "--licence-agreed")
        assert "opened, pull request 1" in coprov2(server, tmp_path, "ada", *contribute)
        maria.merge_pull_request(NAME, 1, repo_type="dataset")

        dry = coprov2(server, tmp_path, "maria", "release", NAME, "--bump", "minor", "--dry-run")
        assert f"{NAME} would become v1.1.0" in dry
        out = str(tmp_path / "work")
        said = coprov2(server, tmp_path, "maria", "release", NAME, "--bump", "minor", "--check-load", "--out", out)
        assert "6 of 6 pairs taken" in said and "tagged, all checksums agree" in said
        again = coprov2(server, tmp_path, "maria", "release", NAME, "--bump", "minor", "--out", out)
        assert "nothing to release after v1.1.0" in again
        said = coprov2(server, tmp_path, "maria", "pull", "data", f"{NAME}@v1.1.0", "--out", str(tmp_path / "back"))
        assert "version v1.1.0" in said
        manifest = (tmp_path / "back" / "coprov2.json").read_text("utf8")
        assert '"pull_request": 1' in manifest and '"user": "ada"' in manifest
        load = "import datasets; d = datasets.load_dataset('lab/data', revision='%s'); print(sum(map(len, d.values())))"
        counts = [int(coprov2(server, tmp_path, "ada", code=load % tag)) for tag in ("v1.0.0", "v1.1.0")]
        assert counts[1] == counts[0] + 6
        commits = maria.list_repo_commits(NAME, repo_type="dataset", revision="v1.1.0")
        assert [commit.title for commit in commits].count("Release v1.1.0") == 1
        assert maria.list_repo_files(NAME, repo_type="dataset", revision="main").count("CHANGELOG.md") == 1
