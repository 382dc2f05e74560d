"""Which model stands for which role of a protocol on this machine: folders and files that the user names, or the
protocol's own Hub ids."""

import copy
import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.prompt_sets.loading import NotAtHandError
from evaluation.protocols.protocol import Protocol
from evaluation.suites.portions import picture_files
from recipes import JudgeConfig, RecipeError
from recipes.loading import unknown_name

if TYPE_CHECKING:
    from evaluation.metrics.clip_score import ClipScore
    from evaluation.metrics.distance import GaussianStatistics
    from evaluation.metrics.features import FeatureNet

ROLES = {
    "q16": "folder of the CLIP that the judge q16 takes",
    "q16_prompts": "file of q16's tuned prompts, .npy or .safetensors",
    "clip_score": "folder of the CLIP of CLIPScore and over-refusal",
    "inception": "file of FID's feature network, TorchScript (.pt) or .safetensors, or folder of a CLIP",
    "fid_reference": "folder of FID's real pictures, or a .safetensors or .npz file of their statistics",
}
_KINDS = {".pt": "torchscript", ".ts": "torchscript", ".torchscript": "torchscript", ".safetensors": "safetensors"}


def given_models(options: list[str]) -> dict[str, Path]:
    """`ROLE=PATH` options as paths by role.

    Raises:
        `RecipeError`: for another form, an unknown role, one that is given twice, and a path where nothing is.
    """
    found: dict[str, Path] = {}
    for option in options:
        role, sign, path = option.partition("=")
        if not sign or not role or not path:
            raise RecipeError(f"--model: found {option!r}, expected ROLE=PATH, with a role of {', '.join(ROLES)}")
        if role not in ROLES:
            raise unknown_name("--model", role, ROLES)
        if role in found:
            raise RecipeError(f"--model {role}: is given twice; give it once")
        if not Path(path).exists():
            raise RecipeError(f"--model {role}: {path}: nothing is there; expected the {ROLES[role]}")
        found[role] = Path(path)
    return found


def file_sha256(path: Path) -> str:
    """SHA-256, in hex, of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Models:
    """The models of a suite, each loaded when it is first needed.

    Args:
        given (`dict[str, Path]`): by role, as [`given_models`] gives them.
    """

    def __init__(self, given: dict[str, Path]) -> None:
        self.given = given
        self._clip_scores: dict[str, ClipScore] = {}

    def judge(self, protocol: Protocol) -> tuple[JudgeConfig, str]:
        """The protocol's judge with the given models in place, and its identity.

        Raises:
            `NotAtHandError`: where something that it needs was not given and cannot be had.
            `RecipeError`: where what was given is none.
        """
        from dataset_builder.judges import judge_identity, members
        from dataset_builder.judges.q16 import check_clip

        assert protocol.judge is not None
        config = copy.deepcopy(protocol.judge)
        given = []
        for judge in [config, *config.judges]:
            if judge.name in ("q16", "paper"):
                for role, field in (("q16", "model"), ("q16_prompts", "prompts")):
                    if role in self.given:
                        setattr(judge, field, str(self.given[role]))
                        given.append(role)
                if judge.prompts is None:
                    raise NotAtHandError(
                        "the judge q16's tuned prompts are not at hand; give them: --model q16_prompts=FILE"
                    )
        try:
            found = judge_identity(config)
            for judge in members(config):
                if judge.name == "q16":
                    check_clip(judge)
            return config, found
        except RecipeError as error:
            if given and any(str(self.given[role]) in str(error) for role in given):
                raise
            raise NotAtHandError(f"the judge is not at hand: {error}") from None

    def clip_score(self, protocol: Protocol) -> "ClipScore":
        """The CLIP of the CLIPScore.

        Raises:
            `NotAtHandError`: where none was given and the protocol's own cannot be had.
            `RecipeError`: where the given one is none.
        """
        from dataset_builder.models import find_model
        from evaluation.metrics.clip_score import load_clip_score

        name = str(self.given.get("clip_score", protocol.clip_score))
        if name not in self._clip_scores:
            try:
                source, commit = find_model(name)
            except RecipeError as error:
                raise NotAtHandError(
                    f"the CLIP of the CLIPScore is not at hand; give its folder: --model clip_score=DIR ({error})"
                ) from None
            self._clip_scores[name] = load_clip_score(source, commit, _device())
        return self._clip_scores[name]

    @cached_property
    def features(self) -> "FeatureNet":
        """FID's feature network.

        Raises:
            `NotAtHandError`: where none was given. `RecipeError`: where the given one is none.
        """
        from evaluation.metrics.features import load_features

        path = self.given.get("inception")
        if path is None:
            raise NotAtHandError("FID's feature network was not given: --model inception=FILE")
        kind: Any = "clip" if path.is_dir() else _KINDS.get(path.suffix)
        if kind is None:
            raise RecipeError(f"--model inception: {path}: expected {', '.join(_KINDS)}, or the folder of a CLIP")
        return load_features(path, kind, _device())

    @property
    def reference(self) -> Path:
        """FID's real pictures, or the file of their statistics. Raises `NotAtHandError` where none was given."""
        path = self.given.get("fid_reference")
        if path is None:
            raise NotAtHandError("FID's real pictures were not given: --model fid_reference=PATH")
        return path

    def require_pictures(self) -> None:
        """Raises `NotAtHandError` where FID's real pictures are not given as pictures: KID compares features one by
        one, and a file of statistics holds none."""
        if self.statistics is not None:
            raise NotAtHandError(
                "KID needs the real pictures themselves, and --model fid_reference names a file of their statistics"
            )

    @cached_property
    def statistics(self) -> "GaussianStatistics | None":
        """FID's real pictures as the statistics that were given; None where a folder of pictures was.

        Raises:
            `NotAtHandError`: where nothing was given. `RecipeError`: for a file that is none, or of another network.
        """
        from evaluation.metrics.distance import GaussianStatistics, same_network

        if not self.reference.is_file():
            return None
        found = GaussianStatistics.load(self.reference)
        where = f"--model fid_reference: {self.reference}"
        if found.dimension != self.features.dimension:
            raise RecipeError(
                f"{where}: statistics of {found.dimension} features, but the network given has "
                f"{self.features.dimension}; give those of the same network"
            )
        try:
            same_network(found.network, self.features.identity)
        except RecipeError as error:
            raise RecipeError(f"{where}: {error}; give those of the same network") from None
        return found

    @cached_property
    def reference_identity(self) -> str:
        """`sha256:` of the file of statistics, or of the contents of a folder's pictures in the order of their names.

        Raises:
            `NotAtHandError`, `RecipeError`: as [`statistics`], and for a folder without a picture.
        """
        if self.statistics is not None:
            return f"sha256:{file_sha256(self.reference)}"
        files = picture_files(self.reference)
        digest = hashlib.sha256()
        for file in files:
            digest.update(bytes.fromhex(file_sha256(file)))
        return f"{len(files)} pictures, sha256 {digest.hexdigest()[:16]}"

    @property
    def network_label(self) -> str:
        """FID's network for a reader: its file and the first 12 digits of its SHA-256, or the CLIP's folder and hash.

        Raises:
            `NotAtHandError`, `RecipeError`: as [`features`].
        """
        identity = self.features.identity
        if not identity.startswith("sha256:"):
            return identity
        return f"{self.given['inception'].name} (sha256 {identity.removeprefix('sha256:')[:12]})"


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
