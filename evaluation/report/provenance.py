"""The end of a part: under which protocol the figures hold, and what they were made from."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.report.blocks import Facts, Section
from evaluation.report.reading import Node, clean

NO_PROTOCOL = "not named in the result file"


def short_hash(text: str) -> str:
    """The first twelve digits of a hash, without the name of its algorithm."""
    return text.removeprefix("sha256:")[:12]


def protocol_label(protocol: Node | None) -> str:
    """A protocol as "NAME (changed: ...), 0123456789ab"; a bare number is the version of a run's own protocol."""
    if protocol is None:
        return NO_PROTOCOL
    if not isinstance(protocol.value, dict):
        return f"version {protocol.text()}"
    label = protocol.need("name").text()
    changed, digest = protocol.get("changed"), protocol.get("sha256")
    if changed is not None and changed.value:
        what = changed.value
        if isinstance(what, dict):
            what = ", ".join(f"{key}={value}" for key, value in sorted(what.items()))
        elif isinstance(what, list):
            what = ", ".join(map(str, what))
        # The name may say it already.
        if "(changed" not in label:
            label += f" (changed: {clean(str(what))[:200]})"
    return f"{label}, {short_hash(digest.text())}" if digest is not None else label


def protocol_rows(protocol: Node | None) -> list[tuple[str, str]]:
    """Name, whole hash and every other field of a protocol, for the end of a part."""
    if protocol is None or not isinstance(protocol.value, dict):
        return [("Protocol", protocol_label(protocol))]
    rows = [("Protocol", protocol_label(protocol))]
    for key, node in protocol.fields().items():
        if key not in ("name", "changed"):
            value = node.value
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
            rows.append(("Its hash (sha256)" if key == "sha256" else clean(key)[:60], clean(text)[:400]))
    return rows


def written_out(value: Any) -> str:
    """A value as indented JSON, cleaned."""
    return clean(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False))


def provenance_section(
    protocol: Sequence[tuple[str, str]],
    rows: Sequence[tuple[str, str]],
    provenance: Node | None,
    stated: Mapping[str, Node] | None = None,
) -> Section:
    """Protocol and provenance, with all of both to fold out.

    Args:
        protocol, rows (`Sequence[tuple[str, str]]`): what is shown of them at once.
        provenance (`Node`, *optional*): the file's.
        stated (`Mapping[str, Node]`, *optional*): the content that each protocol's hash was taken of, by its name.
    """
    settings = {} if stated is None else {name: node.value for name, node in stated.items()}
    return Section(
        "Protocol and provenance",
        [
            Facts(protocol, "Protocol", written_out(settings) if settings else "", "All settings of the protocol"),
            Facts(
                rows,
                "Made from",
                "" if provenance is None else written_out(provenance.value),
                "All of the provenance, as in the result file",
            ),
        ],
    )
