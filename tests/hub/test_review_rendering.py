"""`review --render`: missing pictures are drawn as the dataset's were, added to what was reviewed, and reviewed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dataset_builder.models import identity
from dataset_builder.renderer import renderer_identity
from dataset_builder.schema import MANIFEST
from hub.client import HubError
from hub.local.process import Running
from hub.pull_requests import Refused
from hub.review import merge_reviewed, review
from recipes import Recipe
from tests.hub.contributions.world import publish
from tests.hub.review_world import AUTHOR, NAME, OWNER, client, honest, open_pull_request, place, serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        published = publish(tmp_path_factory.mktemp("published"))
        manifest = json.loads((published / MANIFEST).read_text("utf8"))
        t2i = identity("emoji-world")
        manifest["models"] |= {"t2i": t2i, "renderer": renderer_identity(t2i, Recipe().render)}
        (published / MANIFEST).write_text(json.dumps(manifest), "utf8")
        with serving(tmp_path_factory.mktemp("hub") / "root", published) as running:
            yield running


def test_missing_pictures_are_drawn_and_merged(server: Running, tmp_path: Path) -> None:
    author, owner = client(server, AUTHOR), client(server, OWNER)
    number = open_pull_request(author, {place("bare.jsonl"): honest(2)})
    before = review(NAME, number, api=owner)
    assert before.report.waiting == 2
    after = review(NAME, number, render=True, api=owner)
    report = after.report
    assert report.passes and report.rows == 2 and report.waiting == 0
    assert report.rendered == before.report.sha != report.sha
    (path,) = after.pull_request.added
    assert path.endswith(".parquet") and all(pair.unsafe_image and pair.safe_image for pair in after.pairs)
    assert "pairs were drawn" in report.notes[-1]
    merge_reviewed(after, owner)
    file = owner.hf_hub_download(NAME, path, repo_type="dataset", local_dir=tmp_path)
    rows = pq.read_table(file).to_pylist()
    assert {row["t2i"] for row in rows} == {identity("emoji-world")}
    assert {row["source"] for row in rows} == {f"community:{AUTHOR}"}


def test_a_push_while_pictures_are_drawn_is_not_overwritten(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    author, owner = client(server, AUTHOR), client(server, OWNER)
    number = open_pull_request(author, {place("again.jsonl"): honest(3)})
    commit = owner.create_commit

    def late(*args, **kwargs):  # type: ignore[no-untyped-def]
        author.upload_file(
            path_or_fileobj=honest(4),
            path_in_repo=place("again.jsonl"),
            repo_id=NAME,
            repo_type="dataset",
            revision=f"refs/pr/{number}",
        )
        return commit(*args, **kwargs)

    monkeypatch.setattr(owner, "create_commit", late)
    with pytest.raises(Refused, match="pushed to it"):
        review(NAME, number, render=True, api=owner)


def test_another_model_than_the_datasets_draws_nothing(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    author, owner = client(server, AUTHOR), client(server, OWNER)
    number = open_pull_request(author, {place("other.jsonl"): honest(5)})
    monkeypatch.setattr("hub.render_missing.identity", lambda *args: "org/other@0")
    with pytest.raises(HubError, match="is org/other@0 here"):
        review(NAME, number, render=True, api=owner)
