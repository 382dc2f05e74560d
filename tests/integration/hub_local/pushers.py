"""Twenty processes that push to one repository at once; run as a process of its own.

    python -m tests.integration.hub_local.pushers URL FOLDER

Each makes its commits by the real client, every second one on the parent that it has seen, and tries again on 409 and
412. It writes down what was answered.
"""

import json
import os
import sys
from pathlib import Path

PROCESSES, COMMITS, ATTEMPTS = 20, 4, 400
REPOSITORY = "alice/data"


def push(url: str, folder: Path, index: int) -> None:
    """One process's commits."""
    from huggingface_hub import CommitOperationAdd, HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    constants.HF_HUB_DISABLE_XET = index % 2 == 0
    api, conflicts, done = HfApi(endpoint=url, token="hf_alice_write"), 0, {}
    for number in range(COMMITS):
        title = f"{index}-{number}"
        for attempt in range(ATTEMPTS):
            parent = api.repo_info(REPOSITORY, repo_type="dataset").sha if number % 2 else None
            # All processes write into one file too, so that every commit changes what others have changed.
            adds = [
                CommitOperationAdd(f"rows/{title}.txt", title.encode()),
                CommitOperationAdd(f"rows/{title}.bin", title.encode() * 20_000),
                CommitOperationAdd("last.txt", title.encode()),
            ]
            try:
                info = api.create_commit(
                    REPOSITORY, adds, commit_message=title, repo_type="dataset", parent_commit=parent
                )
                done[title] = info.oid
                break
            except HfHubHTTPError as error:
                if error.response.status_code not in (409, 412) or attempt == ATTEMPTS - 1:
                    raise
                conflicts += 1
    (folder / f"pushed-{index}.json").write_text(json.dumps({"conflicts": conflicts, "done": done}))


def main(url: str, folder: Path) -> int:
    """Forks the processes, lets them go at once and waits; how many failed."""
    import hf_xet  # noqa: F401
    import huggingface_hub.hf_api  # noqa: F401

    gate, opening = os.pipe()
    pids = []
    for index in range(PROCESSES):
        pid = os.fork()
        if pid == 0:
            os.close(opening)
            os.read(gate, 1)
            try:
                push(url, folder, index)
            except BaseException as error:
                print(f"{index}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        pids.append(pid)
    # A closed pipe ends everybody's read.
    os.close(opening)
    return sum(os.waitpid(pid, 0)[1] != 0 for pid in pids)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
