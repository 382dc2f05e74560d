"""Creating, describing, setting, listing, moving and deleting repositories."""

from datetime import timedelta
from pathlib import Path

import pytest
from huggingface_hub import RepoCard
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

from tests.integration.hub_local.checks.check import Checks
from tests.integration.hub_local.world import ORGANISATION, World, status_of

CHECKS = Checks()


@CHECKS.add
def repositories_of_all_kinds_are_created(world: World) -> None:
    for kind, prefix, more in (
        ("model", "", {}),
        ("dataset", "datasets/", {}),
        ("space", "spaces/", {"space_sdk": "static"}),
    ):
        url = world.api().create_repo(world.name(), repo_type=kind, **more)
        assert str(url) == f"{world.url}/{prefix}{world.name()}"
        assert (url.repo_id, url.repo_type) == (world.name(), kind)
        assert world.api().repo_info(world.name(), repo_type=kind).id == world.name()


@CHECKS.add
def a_name_without_namespace_is_the_callers(world: World) -> None:
    url = world.api().create_repo(world.name().split("/")[1])
    assert url.repo_id == world.name()


@CHECKS.add
def creating_twice_is_409_unless_it_is_ok(world: World) -> None:
    name = world.make()
    assert status_of(lambda: world.api().create_repo(name, repo_type="dataset")) == 409
    url = world.api().create_repo(name, repo_type="dataset", exist_ok=True)
    assert str(url) == f"{world.url}/datasets/{name}"
    # Somebody who may not write there gets the repository too, as long as it can be read.
    assert world.api("guest").create_repo(name, repo_type="dataset", exist_ok=True).repo_id == name


@CHECKS.add
def an_organisations_members_share_its_repositories(world: World) -> None:
    name = world.make("dataset", owner=ORGANISATION)
    info = world.api().dataset_info(name)
    assert (info.author, info.id) == (ORGANISATION, name)
    world.api().upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=name, repo_type="dataset")


@CHECKS.add
def a_new_repository_holds_its_attributes(world: World) -> None:
    name = world.make()
    assert world.api().list_repo_files(name, repo_type="dataset") == [".gitattributes"]
    commits = world.api().list_repo_commits(name, repo_type="dataset")
    assert [commit.title for commit in commits] == ["initial commit"]
    text = Path(world.api().hf_hub_download(name, ".gitattributes", repo_type="dataset")).read_text()
    assert "*.parquet filter=lfs" in text and "*.safetensors filter=lfs" in text


@CHECKS.add
def names_that_are_not_names_are_refused(world: World) -> None:
    for bad in ("a--b", "a..b", "x.git", ".hidden", "-dash", "a b", "x" * 97, "a\nb", ""):
        answer = world.raw("POST", "/api/repos/create", json={"name": bad, "type": "dataset"})
        assert 400 <= answer.status_code < 500 and answer.json()["error"], bad
    assert status_of(lambda: world.api().create_repo("no-such-organisation/x")) in (403, 404)


@CHECKS.add
def info_says_what_is_there(world: World) -> None:
    name = world.make(private=True)
    commit = world.api().upload_file(
        path_or_fileobj=b"\x00" * 999, path_in_repo="data/x.bin", repo_id=name, repo_type="dataset"
    )
    info = world.api().dataset_info(name)
    assert (info.id, info.author, info.sha) == (name, "maker", commit.oid)
    assert (info.private, info.gated, info.disabled) == (True, False, False)
    # git counts whole seconds.
    assert info.last_modified >= info.created_at - timedelta(seconds=1)
    assert [sibling.rfilename for sibling in info.siblings] == [".gitattributes", "data/x.bin"]
    files = world.api().dataset_info(name, files_metadata=True).siblings
    assert files[1].size == 999 and files[1].lfs.size == 999 and len(files[1].lfs.sha256) == 64
    assert files[0].lfs is None and len(files[0].blob_id) == 40 and files[0].size > 0


@CHECKS.add
def info_reads_the_card(world: World) -> None:
    name = world.make("model")
    card = "---\nlicense: mit\ntags:\n- lora\nlibrary_name: diffusers\npipeline_tag: text-to-image\n"
    card += "base_model: maker/base\ndatasets:\n- maker/pairs\n---\n# A card\n"
    world.api().upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=name)
    info = world.api().model_info(name)
    assert (info.library_name, info.pipeline_tag) == ("diffusers", "text-to-image")
    assert info.card_data.license == "mit" and "lora" in info.tags
    assert RepoCard.load(name, token="hf_conformance_maker").data.base_model == "maker/base"


@CHECKS.add
def info_of_a_revision_is_that_revisions(world: World) -> None:
    name = world.make()
    first = world.api().dataset_info(name).sha
    world.api().upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=name, repo_type="dataset")
    info = world.api().dataset_info(name, revision=first)
    assert info.sha == first and [sibling.rfilename for sibling in info.siblings] == [".gitattributes"]


@CHECKS.add
def what_is_missing_is_told_apart(world: World) -> None:
    name = world.make()
    with pytest.raises(RepositoryNotFoundError):
        world.api().dataset_info(world.name("-missing"))
    with pytest.raises(RepositoryNotFoundError):
        world.api().model_info(name)
    with pytest.raises(RepositoryNotFoundError):
        world.api().model_info("gpt-of-one-segment")
    with pytest.raises(RepositoryNotFoundError):
        world.api().list_repo_files("gpt-of-one-segment", repo_type="dataset")
    with pytest.raises(RevisionNotFoundError):
        world.api().dataset_info(name, revision="v9.9.9")
    with pytest.raises(RevisionNotFoundError):
        world.api().dataset_info(name, revision="0" * 40)
    with pytest.raises(RevisionNotFoundError):
        world.api().hf_hub_download(name, "x.txt", revision="v9.9.9", repo_type="dataset")
    with pytest.raises(EntryNotFoundError):
        world.api().hf_hub_download(name, "missing.txt", repo_type="dataset")


@CHECKS.add
def existence_can_be_asked_for(world: World) -> None:
    name, api = world.make(), world.api()
    assert api.repo_exists(name, repo_type="dataset") and not api.repo_exists(name, repo_type="model")
    assert api.revision_exists(name, "main", repo_type="dataset")
    assert not api.revision_exists(name, "refs/pr/1", repo_type="dataset")
    assert api.file_exists(name, ".gitattributes", repo_type="dataset")
    assert not api.file_exists(name, "missing.txt", repo_type="dataset")
    assert not api.file_exists(name, ".gitattributes", revision="missing", repo_type="dataset")
    assert not api.file_exists(world.name("-missing"), ".gitattributes", repo_type="dataset")


@CHECKS.add
def settings_change(world: World) -> None:
    name, api = world.make(), world.api()
    api.update_repo_settings(name, private=True, gated="manual", repo_type="dataset")
    info = api.dataset_info(name)
    assert (info.private, info.gated) == (True, "manual")
    api.update_repo_settings(name, visibility="public", gated="auto", repo_type="dataset")
    info = world.api("nobody").dataset_info(name)
    assert (info.private, info.gated) == (False, "auto")
    api.update_repo_settings(name, gated=False, repo_type="dataset")
    assert api.dataset_info(name).gated is False


@CHECKS.add
def repositories_are_listed(world: World) -> None:
    one, two = world.make(suffix="-one"), world.make(suffix="-two", private=True)
    model = world.make("model", suffix="-one")
    mine = [found.id for found in world.api().list_datasets(author="maker")]
    assert one in mine and two in mine
    assert [found.id for found in world.api().list_datasets(author="maker", search=two.split("/")[1])] == [two]
    assert two not in [found.id for found in world.api("guest").list_datasets(author="maker")]
    assert model in [found.id for found in world.api().list_models(author="maker")]
    assert len(list(world.api().list_datasets(author="maker", limit=1))) == 1
    assert not list(world.api().list_datasets(author="nobody-at-all"))


@CHECKS.add
def a_repository_moves(world: World) -> None:
    name, other = world.make(), world.make(suffix="-there")
    world.api().upload_file(path_or_fileobj=b"kept", path_in_repo="x.txt", repo_id=name, repo_type="dataset")
    world.api().create_tag(name, tag="v1.0.0", repo_type="dataset")
    assert status_of(lambda: world.api().move_repo(name, other, repo_type="dataset")) == 409
    world.api().move_repo(name, world.name("-new"), repo_type="dataset")
    path = world.api().hf_hub_download(world.name("-new"), "x.txt", revision="v1.0.0", repo_type="dataset")
    assert Path(path).read_text() == "kept"
    assert status_of(lambda: world.api().move_repo(other, "guest/gone", repo_type="dataset")) == 403


@CHECKS.add
def a_repository_is_deleted(world: World) -> None:
    name, api = world.make(), world.api()
    api.delete_repo(name, repo_type="dataset")
    assert not api.repo_exists(name, repo_type="dataset")
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo(name, repo_type="dataset")
    api.delete_repo(name, repo_type="dataset", missing_ok=True)
    # Another one of the same name starts from nothing.
    world.make()
    assert api.list_repo_files(name, repo_type="dataset") == [".gitattributes"]
    assert not list(api.get_repo_discussions(name, repo_type="dataset"))


@CHECKS.add
def rights_can_be_asked_for(world: World) -> None:
    public, private = world.make(), world.make(suffix="-private", private=True)
    world.api().auth_check(private, repo_type="dataset")
    world.api().auth_check(private, repo_type="dataset", write=True)
    world.api("guest").auth_check(public, repo_type="dataset")
    world.api("nobody").auth_check(public, repo_type="dataset")
    assert status_of(lambda: world.api("guest").auth_check(public, repo_type="dataset", write=True)) == 403
    assert status_of(lambda: world.api("reader").auth_check(public, repo_type="dataset", write=True)) == 403
    with pytest.raises(RepositoryNotFoundError):
        world.api("guest").auth_check(private, repo_type="dataset")
