"""Contribute pairs to a published dataset: check them, write one Parquet file, and open a pull request with it.

A run that was killed is run again: it finds the pull request that holds the same rows, and finishes it."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from cards.writing import cell, code
from hub.client import HubError, check_name, is_same, one_line, status_of
from hub.contributions.checks import Checked, Options, check_rows
from hub.contributions.limits import LIMITS, Limits
from hub.contributions.published import Published, fetch_published
from hub.contributions.reading import Reading
from hub.contributions.schema import source_of
from hub.contributions.writing import Written, write_contribution
from hub.folders import read_file
from recipes import JudgeConfig, RecipeError

State = Literal["opened", "already open", "already merged", "dry run", "nothing passes"]
# Who contributes in a dry run without a token.
_NOBODY = "nobody"
# Pull requests of one contributor that are looked through for the same rows.
_MOST_PULL_REQUESTS = 200


@dataclass(frozen=True)
class Contributed:
    """What came of it: what was done, the rows that pass and fail, and the pull request with its file, if there is
    one."""

    state: State
    passed: int
    failed: int
    report: dict[str, Any]
    number: int | None = None
    url: str | None = None
    name: str | None = None


def contribute(
    source: Path,
    to: str,
    agree: Callable[[str], bool],
    dry_run: bool = False,
    judge: JudgeConfig | None = None,
    api: Any = None,
    say: Callable[[str], None] = print,
    limits: Limits = LIMITS,
) -> Contributed:
    """Check pairs against a published dataset and open a pull request with those that pass.

    Args:
        source (`Path`): a JSONL, CSV or Parquet file, or a folder of such files and their pictures.
        to (`str`): org/name of the dataset.
        agree (`Callable`): asked with the dataset's licence whether the contributor gives the pairs under it.
        dry_run (`bool`, *optional*, defaults to `False`): check only; the Hub is read and nothing is written to it.
        judge (`JudgeConfig`, *optional*): judges to look at the pictures.
        api (`huggingface_hub.HfApi`, *optional*): the client; by default one for `HF_ENDPOINT`.
        say (`Callable`, *optional*, defaults to `print`): takes the table.
        limits (`Limits`, *optional*): bounds.

    Returns:
        `Contributed`: the same rows again give the same pull request.

    Raises:
        `HubError`: where the Hub refuses, the dataset states no licence, or it is not agreed to.
        `RecipeError`: for a source that is not there, or an unknown judge.
    """
    from huggingface_hub import HfApi

    check_name(to)
    if not source.exists():
        raise RecipeError(f"{source}: no such file or folder")
    api = api or HfApi()
    user = _user(api, to, dry_run)
    with tempfile.TemporaryDirectory(prefix="contribute-") as place:
        published = fetch_published(to, Path(place) / "published", api=api)
        options = Options(user, Path(place), judge, limits)
        with check_rows(Reading(source, limits=limits), published, options) as checked:
            say(f"{to} at {published.revision[:12]}, version {published.version or 'not stated'}")
            say(checked.table())
            report = checked.to_json()
            if not checked.passed:
                return Contributed("nothing passes", 0, checked.failed, report)
            if dry_run:
                return Contributed("dry run", checked.passed, checked.failed, report)
            licence = published.licence
            if licence is None:
                raise HubError(f"{to}: its card states no licence, so nothing can be given under it; ask its owner")
            if not agree(licence):
                raise HubError(
                    f"{to}: pairs are given under its licence, {licence}; agree to that with --licence-agreed"
                )
            written = write_contribution(checked, Path(place) / "file", _provenance(published, user, licence, checked))
            state, number, url = _open(api, published, user, licence, checked, written)
            return Contributed(state, checked.passed, checked.failed, report, number, url, written.name)


def _user(api: Any, to: str, dry_run: bool) -> str:
    try:
        with one_line(to):
            name = str(api.whoami()["name"])
    except (HubError, ValueError) as error:
        if dry_run:
            return _NOBODY
        if isinstance(error, HubError):
            raise
        # A client that was made without a token refuses to ask.
        raise HubError(f"{to}: no token; log in by `hf auth login`") from None
    try:
        source_of(name)
    except ValueError:
        raise HubError(f"{to}: the Hub calls this account {name!r}, which is no name that a source can have") from None
    return name


def _tool() -> str:
    try:
        return f"coprov2 {version('coprov2')}"
    except PackageNotFoundError:
        return "coprov2"


def _provenance(published: Published, user: str, licence: str, checked: Checked) -> dict[str, Any]:
    return {
        "user": user,
        "licence": licence,
        "tool": _tool(),
        "repository": published.repository,
        "revision": published.revision,
        "version": published.version,
        "rows": checked.passed,
        "left_out": checked.counts,
    }


def _open(
    api: Any, published: Published, user: str, licence: str, checked: Checked, written: Written
) -> tuple[State, int | None, str | None]:
    """Open the pull request, or finish the one that holds the same file; its number and address."""
    from huggingface_hub import CommitOperationAdd

    to = published.repository
    with one_line(to):
        if _file(api, to, written.name, "main") is not None:
            return "already merged", None, None
        number = _open_already(api, to, user, written.name)
        state: State = "already open"
        if number is None:
            state = "opened"
            info = api.create_commit(
                to,
                [CommitOperationAdd(written.name, written.path)],
                commit_message=f"Contribute {checked.passed} pairs ({Path(written.name).stem[:12]})",
                commit_description=_description(published, user, licence, checked, written),
                repo_type="dataset",
                create_pr=True,
                # What the rows were checked against is what the pull request starts from.
                parent_commit=published.revision,
            )
            number = info.pr_num
            if number is None:
                raise HubError(f"{to}: the Hub named no pull request; look at its list of them, and run this again")
            first = _open_already(api, to, user, written.name)
            if first is not None and first < number:
                # Another run of the same was faster; both see both, and the lower number stays.
                same = f"The same rows stand in pull request {first}."
                api.change_discussion_status(to, number, "closed", comment=same, repo_type="dataset")
                number, state = first, "already open"
            # Verified here only: an earlier run may have been checked against another version, and says so in its file.
            found = _file(api, to, written.name, f"refs/pr/{number}")
            if state == "opened" and (found is None or not is_same(read_file(written.path), found)):
                raise HubError(f"{to}: pull request {number} does not hold what was sent; close it, and run this again")
        details = api.get_discussion_details(to, number, repo_type="dataset")
        if details.status == "draft":
            # Some uploads open a draft, which nobody can merge.
            api.change_discussion_status(to, number, "open", repo_type="dataset")
        return state, number, str(details.url)


def _file(api: Any, to: str, name: str, revision: str) -> Any:
    """The `RepoFile` of a name at a revision, or None."""
    try:
        found = api.get_paths_info(to, [name], repo_type="dataset", revision=revision)
    except Exception as error:
        if status_of(error) == 404:
            # A pull request whose reference is gone holds nothing.
            return None
        raise
    return next((entry for entry in found if entry.path == name and hasattr(entry, "blob_id")), None)


def _open_already(api: Any, to: str, user: str, name: str) -> int | None:
    """The lowest number of this contributor's open pull requests, and drafts, that hold the file."""
    numbers = []
    discussions = api.get_repo_discussions(
        to, repo_type="dataset", author=user, discussion_type="pull_request", discussion_status="open"
    )
    for count, discussion in enumerate(discussions):
        if count == _MOST_PULL_REQUESTS:
            break
        # The filters are the server's; what they are for is looked at here too.
        mine = discussion.is_pull_request and discussion.author == user and discussion.status in ("open", "draft")
        if mine and _file(api, to, name, f"refs/pr/{discussion.num}") is not None:
            numbers.append(int(discussion.num))
    return min(numbers, default=None)


def _description(published: Published, user: str, licence: str, checked: Checked, written: Written) -> str:
    """The pull request's text, Markdown: counts and provenance, and no text of any row."""
    counts: Counter[str] = Counter()
    pictures = 0
    for row in checked.passed_rows():
        counts[row["category"]] += 1
        pictures += bool(row["contents"])
    lines = [
        f"{checked.passed} pairs, {pictures} of them with pictures, in {code(written.name)}.",
        "",
        "| category | pairs |",
        "|---|---|",
        *(f"| {cell(category)} | {count} |" for category, count in sorted(counts.items())),
        "",
        f"- source: {code(source_of(user))}",
        f"- licence, agreed to by the contributor: {code(licence)}",
        f"- checked by {cell(_tool())} against {code(published.version or 'no version')}, commit "
        f"{code(published.revision)}",
        f"- sha256 of the file: {code(written.sha256)}",
    ]
    if checked.failed:
        left = ", ".join(f"{cell(reason)} {count}" for reason, count in checked.counts.items())
        lines.append(f"- left out, {checked.failed} rows: {left}")
    return "\n".join(lines)


def write_report(path: Path, contributed: Contributed) -> None:
    """Write what `--report` asks for: counts, refused files and failing rows as JSON."""
    from recipes.writing import write_whole

    write_whole(path, json.dumps(contributed.report, indent=2, ensure_ascii=False) + "\n")
