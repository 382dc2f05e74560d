"""Merge a reviewed pull request, and check afterwards that main got what was reviewed and nothing else.

The Hub's merge takes no commit: between the last look at the head and the merge somebody may push. The check afterwards
is what tells."""

from dataclasses import dataclass
from itertools import islice
from typing import Any

from hub.client import HubError, content_id, one_line, status_of
from hub.pull_requests import (
    ATTRIBUTES,
    MOST_COMMITS,
    REPO_TYPE,
    Entries,
    PullRequest,
    Refused,
    commit_ids,
    head_of,
    read_entries,
    shown,
)


@dataclass(frozen=True)
class Merged:
    """A verified merge: the commit on main, and how many files it brought."""

    commit: str
    files: int


def merge(api: Any, pull_request: PullRequest, comment: str | None = None) -> Merged:
    """Merge what was reviewed: the head is read again, a draft is opened, and main is verified after.

    Args:
        api (`huggingface_hub.HfApi`): the client, of somebody who may write.
        pull_request (`PullRequest`): reviewed, and without refusals.
        comment (`str`, *optional*): is posted with the merge.

    Raises:
        `Refused`: `head_moved`, `not_open` or `conflict`; nothing was merged.
        `HubError`: where the Hub refuses, or main holds something else than was reviewed; the line says what to do.
    """
    name, number = pull_request.repository, pull_request.number
    where = f"{name} pull request {number}"
    if pull_request.refusals:
        raise ValueError("a pull request with refusals is not merged")
    with one_line(where):
        _check_head(api, pull_request, where)
        if api.get_discussion_details(name, number, repo_type=REPO_TYPE).status == "draft":
            # A draft cannot be merged. An opened one never becomes a draft again, so this waits until it is needed.
            api.change_discussion_status(name, number, new_status="open", repo_type=REPO_TYPE)
        before = str(api.repo_info(name, repo_type=REPO_TYPE, revision="main").sha)
        if pull_request.attributes is not None and before != pull_request.base:
            _check_attributes(api, pull_request, before, where)
        _check_head(api, pull_request, where)
        try:
            api.merge_pull_request(name, number, comment=comment, repo_type=REPO_TYPE)
        except Exception as error:
            if status_of(error) == 409:
                raise Refused("conflict", where) from None
            # An answer may be lost on its way: what counts is what the Hub says now.
            if api.get_discussion_details(name, number, repo_type=REPO_TYPE).status != "merged":
                raise
        details = api.get_discussion_details(name, number, repo_type=REPO_TYPE)
        if details.status != "merged":
            raise Refused("not_open", where)
        commit = details.merge_commit_oid or str(api.repo_info(name, repo_type=REPO_TYPE, revision="main").sha)
        _verify(api, pull_request, before, str(commit))
    return Merged(str(commit), len(pull_request.added))


def _check_head(api: Any, pull_request: PullRequest, where: str) -> None:
    if head_of(api, pull_request.repository, pull_request.number) != pull_request.sha:
        raise Refused("head_moved", where)


def _check_attributes(api: Any, pull_request: PullRequest, before: str, where: str) -> None:
    """Both sides having changed `.gitattributes`, the merged one would be neither, and nobody has reviewed it."""
    ids = [
        [
            content_id(entry)
            for entry in api.get_paths_info(pull_request.repository, ATTRIBUTES, revision=revision, repo_type=REPO_TYPE)
        ]
        for revision in (pull_request.base, before)
    ]
    if ids[0] != ids[1]:
        raise HubError(
            f"{where}: main has another {ATTRIBUTES} by now; let its author push the files onto today's main"
        )


def _verify(api: Any, pull_request: PullRequest, before: str, commit: str) -> None:
    """Compare main just before and just after the merge; raise where more, less or something else arrived."""
    name = pull_request.repository
    after = read_entries(api, name, commit)
    wrong = _differences(pull_request, read_entries(api, name, before), after)
    if wrong:
        parent = _squash_parent(api, pull_request, before, commit)
        if parent is not None and parent != before:
            # Somebody else's commit came in between; it is not the pull request's doing.
            wrong = _differences(pull_request, read_entries(api, name, parent), after)
    if wrong:
        raise HubError(
            f"{name}: THE MERGE {commit} OF PULL REQUEST {pull_request.number} IS NOT WHAT WAS REVIEWED: "
            f"{', '.join(wrong[:5])}{f' and {len(wrong) - 5} more' if len(wrong) > 5 else ''}; main was {before} and "
            f"{pull_request.sha} was reviewed; somebody pushed at the last moment. Restore these paths from {before} "
            "by a commit on main before anything is released"
        )


def _squash_parent(api: Any, pull_request: PullRequest, before: str, commit: str) -> str | None:
    """The commit of main below a squashed merge, or None where the merge brought the pull request's own history along:
    then the commit below it in the log may be one of those that nobody has reviewed."""
    log = []
    for other in islice(commit_ids(api, pull_request.repository, commit), MOST_COMMITS):
        if other == before:
            break
        log.append(other)
    head = head_of(api, pull_request.repository, pull_request.number)
    if pull_request.sha in log or head in log:
        return None
    return log[1] if len(log) > 1 else before


def _differences(pull_request: PullRequest, before: Entries, after: Entries) -> list[str]:
    """Paths where `after` is not `before` with the reviewed files added; `.gitattributes` was reviewed by its lines."""
    expected = {path: content_id(entry) for path, entry in before.files.items()}
    expected |= {path: content_id(entry) for path, entry in pull_request.added.items()}
    found = {path: content_id(entry) for path, entry in after.files.items()}
    if pull_request.attributes is not None:
        expected[ATTRIBUTES] = pull_request.attributes
    paths = sorted(expected.keys() | found.keys())
    return [shown(path) for path in paths if expected.get(path) != found.get(path)]
