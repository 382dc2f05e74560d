"""The version after one state of main: what has changed, which bump fits, the folder, and the commit with its
tag. Trying again, where somebody else was faster, is left to `hub.release`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dataset_builder.schema import MANIFEST, SPLITS, configs_of, shards_by_split
from hub.client import HubError, read_tree
from hub.compact import column_changes, label_names, published_concepts
from hub.contributed_splits import UNSEEN, SplitChooser
from hub.contributions.published import published_folder
from hub.folders import CARD, OWNED, LocalFile, is_allowed
from hub.merged_contributions import (
    Conditions,
    ContributedFile,
    TakenRows,
    fetch_contributions,
    list_contributions,
    take_rows,
)
from hub.published import read_remote_text
from hub.publishing import differing, operations_for, put_tag_at, send_commit, verify
from hub.pull import pull
from hub.release_folder import Change, recipe_of, write_folder
from hub.release_report import LEFT_OUT, Released
from hub.release_state import SinceTag, State, next_version, since_tag
from recipes import JudgeConfig, Recipe


class NextVersion:
    """The version that comes after one state of main."""

    def __init__(
        self,
        api: Any,
        state: State,
        bump: str,
        withdraw: list[str],
        work: Path,
        recipe: Recipe,
        judge: JudgeConfig | None,
    ) -> None:
        self._api, self._state, self._bump, self._withdraw = api, state, bump, withdraw
        self._work, self._recipe, self._judge = work, recipe, judge
        self._published, self._out = work / "published", work / "dataset"
        self.manifest = state.manifest

    def release(self, dry_run: bool, say: Callable[[str], None]) -> Released:
        """Make the version, or say what it would be.

        Raises:
            `HeadMoved`: where main has changed since it was read.
        """
        state = self._state
        changed = since_tag(self._api, state) if state.version in state.tags else SinceTag([], False)
        if self._bump == "patch" and not self._withdraw and not changed.files and not changed.taxonomy:
            return self._nothing([], "the card is that of the tag, and no pair is to be withdrawn")
        if changed.card:
            say(f"{CARD} was changed outside of its sections by hand; all but those is written anew")
        self._pull()
        columns = self._column_changes()
        going = self._going()
        files = list_contributions(self._api, state.name, state.tree, state.head) if self._bump != "patch" else []
        with TakenRows(self._work / "taken.sqlite") as taken:
            if files:
                self._take(files, going, taken)
            wanted = self._fitting(columns, bool(len(taken)), going, changed.files)
            if wanted is None:
                return self._nothing(files, self._why_nothing(files))
            return self._publish(files, taken, going, [*columns, *_changed(changed.files)], bool(columns), dry_run)

    def _pull(self) -> None:
        """The published version as it stands at the commit; what an earlier call left of another one goes."""
        wanted = {path for path in self._state.tree if is_allowed("data", path)}
        if self._published.is_dir():
            for path in sorted(self._published.rglob("*")):
                name = path.relative_to(self._published).as_posix()
                if not name.startswith(".cache/") and not path.is_dir() and name not in wanted:
                    path.unlink()
        pull("data", f"{self._state.name}@{self._state.head}", self._published, self._api)

    def _categories(self) -> list[str]:
        """The categories of the new version: the manifest's taxonomy, or where it names none the published labels."""
        taxonomy = self._state.manifest.get("taxonomy")
        concepts = taxonomy.get("concepts") if isinstance(taxonomy, dict) else None
        if isinstance(concepts, dict) and concepts:
            return [str(category) for category in concepts]
        return label_names(next(iter(shards_by_split(self._published, "prompts").values()))[0])

    def _column_changes(self) -> list[str]:
        categories = self._categories()
        found: dict[str, None] = {}
        for config in configs_of(self._state.manifest["files"]):
            for paths in shards_by_split(self._published, config).values():
                for path in paths:
                    names = label_names(path)
                    lost = sorted(set(names) - set(categories))
                    if lost:
                        raise HubError(
                            f"{self._state.name}: the taxonomy in {MANIFEST} has no category {lost[0]}, which "
                            "published pairs have; a release adds categories and takes none away"
                        )
                    if names != categories:
                        found[f"the categories are now {', '.join(categories)}"] = None
                    found.update(dict.fromkeys(f"column {said}" for said in column_changes(path, config, names)))
        return list(found)

    def _going(self) -> list[str]:
        """The pair ids that are to be withdrawn and still stand."""
        held: set[str] = set()
        if self._withdraw:
            for paths in shards_by_split(self._published, "prompts").values():
                for path in paths:
                    ids = pq.read_table(path, columns=["pair_id"])["pair_id"].to_pylist()
                    held |= set(ids) & set(self._withdraw)
        gone = set(self._state.manifest.get("withdrawn") or ())
        unknown = [pair for pair in self._withdraw if pair not in held and pair not in gone]
        if unknown:
            raise HubError(
                f"--withdraw: {len(unknown)} pair ids stand in no split of {self._state.version}, the first of them "
                f"{unknown[0][:64]!r}; take them out of the list"
            )
        return sorted(held)

    def _take(self, files: list[ContributedFile], going: list[str], taken: TakenRows) -> None:
        state = self._state
        root = fetch_contributions(self._api, state.name, state.tree, state.head, files, self._work / "contributions")
        concepts = list(published_concepts(self._published))
        for kinds in ((state.manifest.get("taxonomy") or {}).get("concepts") or {}).values():
            concepts += [(UNSEEN, concept) for concept in kinds.get("unseen", [])]
            concepts += [(SPLITS[0], concept) for concept in kinds.get("seen", [])]
        with (self._work / LEFT_OUT).open("w", encoding="utf8") as listing:

            def list_left(file: str, row: int, pair_id: str | None, reasons: tuple[str, ...]) -> None:
                entry = {"file": file, "row": row, "pair_id": pair_id, "reasons": reasons}
                listing.write(json.dumps(entry) + "\n")

            take_rows(root, files, self._conditions(concepts, going, list_left), taken)

    def _conditions(self, concepts: list[tuple[str, str]], going: list[str], list_left: Any) -> Conditions:
        state = self._state
        return Conditions(
            published=published_folder(self._published, state.name, state.head),
            pictures="default" in configs_of(state.manifest["files"]),
            chooser=SplitChooser(state.manifest.get("rows") or {}, concepts),
            categories=self._categories(),
            withdrawn={*going, *(state.manifest.get("withdrawn") or ())},
            judge=self._judge,
            work=self._work,
            list_left=list_left,
        )

    def _fitting(self, columns: list[str], added: bool, going: list[str], files: list[str]) -> str | None:
        """The bump that fits what has changed, or None where nothing has.

        Raises:
            `HubError`: where it is another than the one that was asked for.
        """
        fits = "major" if columns else "minor" if added else "patch" if going or files else None
        if fits == self._bump or (fits is None and self._bump != "major"):
            return fits
        # A card that was changed on main is no reason to fail: a release of pairs without pairs is just not due.
        if fits == "patch" and self._bump == "minor" and not going:
            return None
        why = {
            "major": f"{columns[0]}" if columns else "",
            "minor": "pairs come in, and columns and categories are as they were",
            "patch": "no pair comes in, and columns and categories are as they were",
            None: "columns and categories are as they were, and nothing else is to release",
        }
        way = f"use --bump {fits}" if fits else "leave it"
        raise HubError(f"{self._state.name}: --bump {self._bump} does not fit: {why[fits]}; {way}")

    def _why_nothing(self, files: list[ContributedFile]) -> str:
        if not files:
            return "nothing is in contributions/"
        waiting, left = sum(file.waiting for file in files), sum(file.left_out.total() for file in files)
        return f"of {len(files)} contributed files, {waiting} pairs wait for pictures, {left} were left out"

    def _nothing(self, files: list[ContributedFile], why: str) -> Released:
        state = self._state
        commit = state.tags.get(state.version, state.head)
        return Released(
            state.name, state.version, commit, False, f"nothing to release after {state.version}: {why}", files=files
        )

    def _publish(
        self,
        files: list[ContributedFile],
        taken: TakenRows,
        going: list[str],
        notes: list[str],
        rewrite: bool,
        dry_run: bool,
    ) -> Released:
        state, version = self._state, next_version(self._state.version, self._bump)
        if version in state.tags:
            raise HubError(
                f"{state.name}: the tag {version} is there already, at {state.tags[version]}, and main holds "
                f"{state.version}; take away the tag that was set by hand"
            )
        change = Change(version, self._bump, state.version, state.head, files, going, notes, rewrite)
        card = (self._published / CARD).read_text("utf8") if (self._published / CARD).is_file() else ""
        recipe = recipe_of(state.manifest, card, self._recipe, state.name)
        self.manifest, local = write_folder(
            self._published, self._out, state.manifest, taken, self._categories(), change, recipe
        )
        wrong = differing(state.tree, local)
        uploads = [path for path in wrong if path in local]
        deletions = [path for path in wrong if path not in local]
        deletions += [file.name for file in files if file.is_done]
        operations = operations_for(state.tree, state.head, local, uploads, deletions)
        copied = sum(hasattr(operation, "src_path_in_repo") for operation in operations)
        commit = state.head
        if not dry_run:
            description = "\n".join(f"{split}: {count} pairs" for split, count in taken.counts().items())
            commit = send_commit(
                self._api, state.name, "dataset", operations, f"Release {version}", state.head, description
            )
            self._confirm(version, commit, local)
        return Released(
            state.name,
            version,
            commit,
            not dry_run,
            added=taken.counts(),
            withdrawn=going,
            files=files,
            uploaded=len(uploads) - copied,
            copied=copied,
            kept=len(local) - len(uploads),
            foreign=state.foreign_files,
        )

    def _confirm(self, version: str, commit: str, local: dict[str, LocalFile]) -> None:
        """Tag the commit once the Hub has shown that it holds what was made."""
        name = self._state.name
        tree = read_tree(self._api, name, "dataset", commit)
        verify(tree, local, f"{name} at {commit}")
        fetched = read_remote_text(self._api, name, tree, MANIFEST, commit)
        if fetched != local[MANIFEST].path.read_text("utf8"):
            raise HubError(f"{name} at {commit}: {MANIFEST} is not what was sent; release again")
        put_tag_at(self._api, name, "dataset", version, commit)


def _changed(files: list[str]) -> list[str]:
    return [f"{path} was changed" for path in files if not path.startswith(OWNED)]
