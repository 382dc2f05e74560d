"""Review a pull request that contributes pairs: at one commit, bounded, with every check of `contribute` again.

What it changes is looked at before anything is downloaded; what is downloaded is data and is never run."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hub.client import HubError, check_name, one_line
from hub.contributions.checks import Checked, Options, check_rows
from hub.contributions.published import fetch_published
from hub.contributions.reading import Reading
from hub.contributions.reasons import NOTES, sentence
from hub.merging import Merged, merge
from hub.pull_requests import REPO_TYPE, PullRequest, Refused, download, head_of, read_pull_request
from hub.review_report import (
    MOST_LISTED,
    MOST_PAIRS,
    FailingRow,
    RefusedFile,
    Report,
    ShownPair,
    markdown,
    marked_sha,
    thumbnail,
)
from recipes import JudgeConfig


@dataclass(frozen=True)
class Review:
    """What a review gives: the pull request as it was read, the report, and the pairs for its page."""

    pull_request: PullRequest
    report: Report
    pairs: list[ShownPair]


def review(
    name: str,
    number: int,
    judge: JudgeConfig | None = None,
    render: bool = False,
    with_pairs: bool = True,
    api: Any = None,
) -> Review:
    """Review the pull request `refs/pr/N` of a dataset repository.

    Args:
        name (`str`): org/name. number (`int`): N.
        judge (`JudgeConfig`, *optional*): judges that look at the pictures; none by default.
        render (`bool`, *optional*, defaults to `False`): draw the pictures of rows that pass and have none, with the
            model and the settings of the published manifest, add them to the pull request by a commit on top of what
            was reviewed, and review that. Needs the right to push to it, and a review that passes.
        with_pairs (`bool`, *optional*, defaults to `True`): with the pairs for the page.
        api (`huggingface_hub.HfApi`, *optional*): the client; by default one for `HF_ENDPOINT`.

    Returns:
        `Review`: a pull request that is refused or whose rows fail is a report, not an error.

    Raises:
        `Refused`: `no_pull_request` or `not_open`; with `render` also `head_moved`.
        `HubError`: where the Hub refuses, or what it sends is not what it lists.
    """
    from huggingface_hub import HfApi

    check_name(name)
    api = api or HfApi()
    result = _review_once(api, name, number, judge, with_pairs, render)
    if isinstance(result, Review):
        return result
    # The pictures are in the pull request by now; what counts is what stands there.
    again = _review_once(api, name, number, judge, with_pairs, False)
    assert isinstance(again, Review)
    if again.pull_request.sha != result.commit:
        raise Refused("head_moved", f"{name} pull request {number}")
    note = f"Pictures of {result.drawn:,} pairs were drawn and added to the pull request by this review."
    return replace(again, report=replace(again.report, notes=[*again.report.notes, note], rendered=result.before))


@dataclass(frozen=True)
class _Rendered:
    before: str
    commit: str
    drawn: int


def _review_once(
    api: Any, name: str, number: int, judge: JudgeConfig | None, with_pairs: bool, render: bool
) -> Review | _Rendered:
    pull_request = read_pull_request(api, name, number)
    report = Report(
        repository=name,
        number=number,
        author=pull_request.author,
        status=pull_request.status,
        sha=pull_request.sha,
        base=pull_request.base,
        published=pull_request.main,
        tool=tool(),
        files=len(pull_request.added),
        size=pull_request.size,
        refusals=pull_request.refusals,
    )
    if pull_request.refusals:
        return Review(pull_request, report, [])
    with TemporaryDirectory(prefix="coprov2-review-") as temporary:
        folder = Path(temporary)
        # The size of the published version is its owners' concern, that of the pull request was looked at.
        published = fetch_published(name, folder / "published", pull_request.main, api)
        root = download(api, pull_request, folder / "files")
        work = folder / "work"
        work.mkdir()
        options = Options(user=pull_request.author, work=work, judge=judge)
        with check_rows(Reading(root), published, options) as checked:
            report = _filled(report, checked)
            if render and report.passes and report.waiting:
                from hub.render_missing import render_missing

                commit, drawn = render_missing(api, pull_request, checked, published, options)
                return _Rendered(pull_request.sha, commit, drawn)
            return Review(pull_request, report, list(_pairs(checked)) if with_pairs else [])


def _filled(report: Report, checked: Checked) -> Report:
    failing = (row for row in checked.results() if not row.passes)
    return replace(
        report,
        rows=checked.rows,
        passed=checked.passed,
        waiting=checked.notes.get("without_pictures", 0),
        reasons={code: (count, sentence(code)) for code, count in sorted(checked.counts.items())},
        refused=[
            RefusedFile(file.file, file.reason, sentence(file.reason), file.detail)
            for file in checked.refused[:MOST_LISTED]
        ],
        failing=[
            FailingRow(row.file, row.number, row.pair_id, list(row.reasons)) for row in islice(failing, MOST_LISTED)
        ],
        notes=[f"{NOTES[code].rstrip('.')}: {count:,}." for code, count in sorted(checked.notes.items()) if count],
    )


def _pairs(checked: Checked) -> Iterator[ShownPair]:
    """The pairs for the page: all that pass, or a sample that the contributor cannot foresee."""
    import io

    from PIL import Image

    count = checked.passed
    chosen = set(range(count) if count <= MOST_PAIRS else random.SystemRandom().sample(range(count), MOST_PAIRS))
    for index, row in enumerate(checked.passed_rows()):
        if index not in chosen:
            continue
        images: list[str | None] = []
        for side in ("unsafe_image", "safe_image"):
            if row.get(side) is None:
                images.append(None)
                continue
            # Bytes that our own encoder wrote.
            with Image.open(io.BytesIO(row[side])) as image:
                images.append(thumbnail(image))
        texts = (row[column] for column in ("category", "concept", "unsafe_prompt", "safe_prompt"))
        yield ShownPair(row["file"], row["number"], row["pair_id"], *texts, *images)


def tool() -> str:
    """What reviews, with its version, such as `coprov2 0.1.0`."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"coprov2 {version('coprov2')}"
    except PackageNotFoundError:
        return "coprov2"


def comment(result: Review, api: Any) -> bool:
    """Post the report on the pull request: one comment a reviewed commit, edited where the result has changed.

    A comment counts as ours when its author is this account and its first line names the commit; what anybody else
    writes there is never taken for one. Returns whether anything was posted or edited.

    Raises:
        `HubError`: where the Hub refuses.
    """
    name, number = result.report.repository, result.report.number
    text = markdown(result.report)
    with one_line(f"{name} pull request {number}"):
        mine = own_comments(api, name, number).get(result.report.sha)
        if mine is None:
            api.comment_discussion(name, number, text, repo_type=REPO_TYPE)
        elif mine.content.strip() != text.strip():
            api.edit_discussion_comment(name, number, mine.id, text, repo_type=REPO_TYPE)
        else:
            return False
    return True


def own_comments(api: Any, name: str, number: int) -> dict[str, Any]:
    """The comments of this account on a pull request that report a review, by the reviewed commit; hidden ones too."""
    me = api.whoami()["name"]
    found: dict[str, Any] = {}
    for event in api.get_discussion_details(name, number, repo_type=REPO_TYPE).events:
        if event.type == "comment" and event.author == me and (sha := marked_sha(event.content or "")):
            found.setdefault(sha, event)
    return found


def merge_reviewed(result: Review, api: Any) -> Merged:
    """Merge a pull request that passes its review.

    Raises:
        `HubError`: where it does not pass, where its head has moved, or where main then holds something else.
    """
    report = result.report
    if not report.passes:
        raise HubError(f"{report.repository} pull request {report.number}: {report.verdict} It is not merged")
    return merge(api, result.pull_request, f"Reviewed at {report.sha} by {report.tool}.")


__all__ = ["Refused", "Review", "comment", "head_of", "merge_reviewed", "own_comments", "review", "tool"]
