"""Before a commit: which files go to the LFS store, which are ignored, and which are there already."""

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub.local.access import find_repository
from hub.local.call import Call, answer
from hub.local.errors import bad_request
from hub.local.git_store import GitStore
from hub.local.lfs import uploader
from hub.local.names import MAX_LFS_OBJECT, MAX_PREUPLOAD, MAX_REGULAR, check_path, check_size
from hub.local.routing import Endpoint

if TYPE_CHECKING:
    from starlette.responses import Response

MAX_IGNORE = 64 << 10  # bytes of a .gitignore
_SECONDS = 20.0  # for git to match the paths


def preupload(call: Call) -> "Response":
    """POST /api/T/R/preupload/{revision}."""
    repository = find_repository(call, "content")
    uploader(call)
    store = call.hub.git(repository)
    commit = store.resolve(call.params["revision"])
    asked = call.fields()
    files = asked.get("files")
    if not isinstance(files, list) or len(files) > MAX_PREUPLOAD or not all(isinstance(file, dict) for file in files):
        raise bad_request(f"Invalid preupload: expected a list of at most {MAX_PREUPLOAD} files")
    paths = [check_path(file.get("path")) for file in files]
    sizes = [check_size(file.get("size"), MAX_LFS_OBJECT) for file in files]
    ignored = _ignored(call, store, commit, asked.get("gitIgnore"), paths)
    plan = [
        {**_plan(store, commit, path, size), "shouldIgnore": path in ignored}
        for path, size in zip(paths, sizes, strict=True)
    ]
    return answer({"files": plan})


def _plan(store: GitStore, commit: str, path: str, size: int) -> dict[str, Any]:
    lfs = size > MAX_REGULAR or store.attribute(commit, path, "filter") == "lfs"
    plan: dict[str, Any] = {"path": path, "uploadMode": "lfs" if lfs else "regular"}
    entry = store.entry(commit, path)
    if entry is not None and not entry.folder:
        pointer = store.blob(entry.oid).pointer
        plan["oid"] = pointer.oid if pointer else entry.oid
    return plan


def _ignored(call: Call, store: GitStore, commit: str, given: Any, paths: list[str]) -> set[str]:
    """The paths that a .gitignore (the one given, else the commit's) leaves out, as git itself says."""
    if given is not None and not isinstance(given, str):
        raise bad_request("Invalid gitIgnore: expected text")
    rules = given.encode() if given is not None else store.read_path(commit, ".gitignore", MAX_IGNORE)
    if not rules or not paths:
        return set()
    if len(rules) > MAX_IGNORE:
        raise bad_request(f"Invalid gitIgnore: more than {MAX_IGNORE} bytes")
    with tempfile.TemporaryDirectory(dir=call.hub.root / "tmp") as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        (Path(folder) / "rules").write_bytes(rules)
        command = ["git", f"--git-dir={store.path}", f"--work-tree={tree}", "-c", f"core.excludesFile={folder}/rules"]
        command += ["-c", "core.bare=false", "check-ignore", "--no-index", "-z", "--stdin"]
        # Nothing of the machine's or the user's own settings counts here.
        plain = {"GIT_CONFIG_NOSYSTEM": "1", "HOME": folder, "PATH": os.environ.get("PATH", "")}
        try:
            done = subprocess.run(
                command, input="\0".join(paths).encode(), capture_output=True, cwd=tree, env=plain, timeout=_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise bad_request("Invalid gitIgnore: its patterns take too long to match") from None
    if done.returncode not in (0, 1):
        raise bad_request("Invalid gitIgnore: git cannot read it")
    return {path.decode() for path in done.stdout.split(b"\0") if path}


ENDPOINTS = [Endpoint("POST", "api/{type}/{namespace}/{name}/preupload/{revision}", preupload)]
