"""How to cite a dataset or an adapter, and the method, as BibTeX."""

from cards.escaping import Safe, bibtex

ALIGNGUARD = """\
@inproceedings{liu2025alignguard,
  title     = {AlignGuard: Scalable Safety Alignment for Text-to-Image Generation},
  author    = {Liu and Chen and Gu and Zhang and Pi and Chen and Torr and Khakzar and Pizzati},
  booktitle = {ICCV},
  year      = {2025},
  note      = {arXiv:2412.10493}
}"""


def citation(title: str, repository: str, folder: str, version: str | None, checksum: tuple[str, str] | None) -> Safe:
    """Entries for this version and for the method.

    Args:
        title (`str`): of the dataset or adapter.
        repository (`str`): org/name, checked.
        folder (`str`): what stands before it in an address of the Hub: `datasets/` or nothing.
        version (`str`, *optional*): its tag.
        checksum (`tuple[str, str]`, *optional*): what it is of, and it, so that the citation holds without the Hub too.
    """
    stated = [f"version {bibtex(version)}"] if version else []
    stated += [f"{checksum[0]} {bibtex(checksum[1][:16])}"] if checksum else []
    fields = {
        "title": f"{{{bibtex(title)}}}",
        # Inner braces keep it one name.
        "author": "{ {The CoProV2 authors} }",
        "howpublished": f"{{\\url{{https://huggingface.co/{folder}{repository}}}}}",
    }
    if stated:
        fields["note"] = f"{{{', '.join(stated)}}}"
    lines = ",\n".join(f"  {name:<12} = {value}" for name, value in fields.items())
    key = repository.replace("/", "-").lower()
    return Safe(f"@misc{{{key},\n{lines}\n}}\n\n{ALIGNGUARD}")
