"""Release a new version of a dataset: contributions into its splits, one commit, one tag, and a check of both.

Whatever is killed in between, the same command ends with the version published once: a commit without its tag is found
by its manifest, and one that was never made is computed anew from main."""

import fcntl
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataset_builder.disk import disk_full_said
from dataset_builder.schema import configs_of
from hub.client import HubError, check_name, one_line
from hub.publishing import ATTEMPTS, HeadMoved, pause
from hub.release_report import Released
from hub.release_state import BUMPS, State, finish, read_state
from hub.release_version import NextVersion
from recipes import JudgeConfig, Recipe


def release(
    name: str,
    bump: str,
    out: Path | None = None,
    dry_run: bool = False,
    withdraw: Sequence[str] = (),
    recipe: Recipe | None = None,
    judge: JudgeConfig | None = None,
    check_load: bool = False,
    api: Any = None,
    say: Callable[[str], None] = print,
) -> Released:
    """Release what has changed on main since its last version.

    Args:
        name (`str`): org/name of a dataset repository.
        bump (`str`): `minor` takes contributed pairs in, `patch` takes pairs away or follows a changed card, `major` is
            for changed columns or categories and writes every shard anew.
        out (`Path`, *optional*): folder to work in, which a later call goes on in; a temporary one by default.
        dry_run (`bool`, *optional*, defaults to `False`): compute everything and change nothing on the Hub.
        withdraw (`Sequence[str]`, *optional*): pair ids that the new version does not hold.
        recipe (`Recipe`, *optional*): for what the manifest does not state; the emoji world's by default.
        judge (`JudgeConfig`, *optional*): judges that look at contributed pictures; none by default.
        check_load (`bool`, *optional*, defaults to `False`): load the version by its tag with `datasets` afterwards and
            count its rows; at HF_ENDPOINT.
        api (`huggingface_hub.HfApi`, *optional*): the client; by default one for `HF_ENDPOINT`.
        say (`Callable`, *optional*, defaults to `print`): takes lines on what is found on the way.

    Returns:
        `Released`: with `made` false, and the reason, where there is nothing to release.

    Raises:
        `HubError`: for a bump that does not fit what has changed, a pair id that is not there, a main that is not as
            its manifest says, prompts that would stand in two splits, a tag that stands elsewhere, and a Hub that
            refuses.
    """
    from huggingface_hub import HfApi

    check_name(name)
    if bump not in BUMPS:
        raise HubError(f"--bump {bump}: expected one of {', '.join(BUMPS)}")
    api = api or HfApi()
    with _work(out) as work, one_line(name), disk_full_said(work):
        for attempt in range(ATTEMPTS):
            state = read_state(api, name)
            if state.version not in state.tags:
                if not dry_run:
                    state = finish(api, state)
                    say(f"{state.version} was on main without its tag; it is tagged now")
                    if _is_of(state.manifest, bump, withdraw):
                        return _finished(api, state, check_load, work)
                else:
                    say(f"{state.version} is on main without its tag; a release would tag it first")
            version = NextVersion(api, state, bump, list(withdraw), work, recipe or Recipe(), judge)
            try:
                released = version.release(dry_run, say)
            except HeadMoved:
                say("somebody else changed main meanwhile; reading it again")
                pause(attempt)
                continue
            if released.made and check_load:
                check_loads(name, released.version, version.manifest, work)
            return released
    raise HubError(f"{name}: somebody else was faster {ATTEMPTS} times; release again")


@contextmanager
def _work(out: Path | None) -> Iterator[Path]:
    """The folder to work in, for this process alone."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="coprov2-release-") as folder:
            yield Path(folder)
        return
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise HubError(f"{out}: another release works in this folder; give another --out, or wait") from None
        yield out


def _is_of(manifest: dict[str, Any], bump: str, withdraw: Sequence[str]) -> bool:
    """Whether the version of a manifest is what this very command makes."""
    made = manifest.get("release")
    return isinstance(made, dict) and made.get("bump") == bump and set(withdraw) <= set(made.get("withdrawn") or ())


def _finished(api: Any, state: State, check_load: bool, work: Path) -> Released:
    if check_load:
        check_loads(state.name, state.version, state.manifest, work)
    made = state.manifest["release"]
    commit = state.tags[state.version]
    return Released(
        state.name, state.version, commit, True, added=dict(made["added"]), withdrawn=list(made["withdrawn"])
    )


def check_loads(name: str, version: str, manifest: dict[str, Any], work: Path) -> None:
    """Load a version by its tag with stock `datasets`, from HF_ENDPOINT and with no cache, and count its rows.

    Raises:
        `HubError`: where a split has another number of rows than the manifest says.
    """
    from datasets import load_dataset

    with tempfile.TemporaryDirectory(prefix="load-", dir=work) as cache:
        for config in configs_of(manifest["files"]):
            found = load_dataset(name, config, revision=version, cache_dir=cache)
            rows = Counter({split: data.num_rows for split, data in found.items()})
            if rows != Counter({split: count for split, count in manifest["rows"].items() if count}):
                raise HubError(
                    f"{name}@{version}: load_dataset finds {dict(rows)} rows in {config}, not the manifest's"
                )
