"""The quickstart's last stage: everything is published to a Hub of its own on loopback, and loaded from there again.

The Hub lives in RUN/hub and ends with the stage; `coprov2 hub serve --root RUN/hub` opens it again."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hub.client import HubError
from hub.local.process import start
from hub.publish_run import ADAPTER_TAG, order
from recipes import Recipe
from recipes.writing import write_json

_CHECK = Path(__file__).with_name("stock_check.py")
# What stands there is the user's own account, which the stage must not use.
_OWN = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def publish_locally(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Publish the run in `out` to a Hub on loopback, with one contribution and the release that takes it in, and load
    both repositories back by tag with stock libraries.

    Returns:
        `dict`: what stands in RUN/hub.json: repositories, versions with their commits, the contribution, and the
        comparison with what was made.

    Raises:
        `HubError`: where a step fails, or what is loaded is not what was made.
    """
    root = out / "hub"
    # The stage is run again as a whole: a Hub that was left half-filled is not gone on with.
    shutil.rmtree(root, ignore_errors=True)
    owner, contributor = (f"hf_{secrets.token_hex(16)}" for _ in range(2))
    users = [
        {"name": "maintainer", "tokens": [{"name": "quickstart", "token": owner, "role": "write"}]},
        {"name": "contributor", "tokens": [{"name": "quickstart", "token": contributor, "role": "write"}]},
    ]
    members = {"maintainer": "write", "contributor": "read"}
    orders = out / "work" / "publish.json"
    with (
        start(root, users=users, orgs=[{"name": recipe.publish.namespace, "members": members}]) as server,
        tempfile.TemporaryDirectory(prefix="coprov2-publish-") as scratch,
    ):
        environment = {key: value for key, value in os.environ.items() if key not in _OWN}
        environment |= {"HF_ENDPOINT": server.url, "HF_HOME": scratch, "HF_HUB_DISABLE_TELEMETRY": "1"}
        environment |= {"HF_TOKEN": owner, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        # Else datasets tells a server elsewhere what was loaded.
        environment |= {"HF_UPDATE_DOWNLOAD_COUNTS": "0"}
        environment |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "DIFFUSERS_VERBOSITY": "error"}
        order(recipe, out, owner, contributor)
        try:
            _child(["-m", "hub.publish_run", str(out)], environment, "publishing")
        finally:
            orders.unlink(missing_ok=True)
        done: dict[str, Any] = json.loads((out / "work" / "published.json").read_text("utf8"))
        done["loaded"] = _load(recipe, out, done, environment)
    write_json(out / "hub.json", done)
    return done


def _load(recipe: Recipe, out: Path, done: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    from dataset_builder.models import model_folder

    base = str(model_folder("t2i")) if recipe.base_model == "emoji-world" else recipe.base_model
    versions = list(done["dataset"]["versions"])
    command = [str(_CHECK), "--dataset", done["dataset"]["name"], versions[0], versions[-1], str(out / "dataset")]
    command += ["--adapter", done["adapter"]["name"], ADAPTER_TAG, str(out / "merged"), base]
    loaded: dict[str, Any] = json.loads(_child(command, environment, "loading").strip().splitlines()[-1])
    wrong = [name for name, value in loaded.items() if value is False]
    if wrong:
        raise HubError(f"{out / 'hub'}: what stock libraries load is not what was made: {', '.join(wrong)}")
    return loaded


def _child(arguments: list[str], environment: dict[str, str], what: str) -> str:
    ended = subprocess.run([sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, text=True)
    if ended.returncode:
        raise HubError(f"{what} to the Hub on loopback ended with status {ended.returncode}; its lines stand above")
    return ended.stdout
