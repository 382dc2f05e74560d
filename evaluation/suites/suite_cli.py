"""What `coprov2 evaluate --suite` does, and the verbs `protocols` and `combine`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recipes import RecipeError, load_recipe
from recipes.loading import unknown_name

if TYPE_CHECKING:
    from evaluation.prompt_sets.definition import PromptSet


def _by_name(option: str, given: list[str], what: str) -> dict[str, str]:
    """`NAME=VALUE` options by name."""
    found: dict[str, str] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name or not value:
            raise RecipeError(f"{option}: found {text!r}, expected {what}")
        if name in found:
            raise RecipeError(f"{option} {name}: is given twice; give it once")
        found[name] = value
    return found


def evaluate_suite(
    name: str,
    config: str,
    overrides: list[str],
    data: Path | None,
    adapters: list[str],
    options: dict[str, Any],
    out: Path,
) -> None:
    """Run a suite and print its table.

    Args:
        name (`str`): of the suite. config (`str`): the recipe that emoji-world's dataset was built by.
        overrides (`list[str]`): changes of the protocols. data (`Path`, *optional*): emoji-world's dataset.
        adapters (`list[str]`): at most one: DIR, or NAME=DIR. options (`dict`): the suite's own, by their name on the
            command line. out (`Path`): the folder of results.

    Raises:
        `RecipeError`: for a name or a combination that is none.
    """
    import re

    from dataset_builder.models import EMOJI_WORLD
    from evaluation.prompt_sets.definition import list_sets
    from evaluation.suites.emoji_world import run_emoji_world
    from evaluation.suites.roles import given_models
    from evaluation.suites.run import Given, run_suite
    from evaluation.suites.suite import load_suite
    from evaluation.suites.table import suite_table

    suite = load_suite(name)
    if name != "emoji-world" and config != "emoji-world":
        raise RecipeError(f"--config: the suite {name} takes no recipe; give --base, and --set for its protocols")
    if len(adapters) > 1:
        raise RecipeError(f"--adapter: found {len(adapters)}, a suite takes one; run it once for each")
    prompts = _by_name("--prompts", options["--prompts"], "SET=PATH")
    pins = _by_name("--pin", options["--pin"], "SET=SHA256")
    for option, found in (("--prompts", prompts), ("--pin", pins)):
        for key in found:
            if key not in list_sets():
                raise unknown_name(option, key, list_sets())
    for key, value in pins.items():
        if not re.fullmatch(r"[0-9a-f]{64}", value):
            raise RecipeError(f"--pin {key}: expected 64 hex digits, found {value[:80]!r}")
    if data is not None:
        if name != "emoji-world":
            raise RecipeError("--data: only the suite emoji-world draws a dataset's prompts; give --prompts SET=PATH")
        if "emoji_world" in prompts:
            raise RecipeError("--data: is the same as --prompts emoji_world=DIR; give one of them")
        prompts["emoji_world"] = str(data)
    recipe = load_recipe(config)
    base = options["--base"] or (recipe.base_model if name == "emoji-world" else None)
    if base is None:
        raise RecipeError("--base: missing; expected the base model, a Hub id or the folder of a diffusers pipeline")
    if options["--revision"] and (base == EMOJI_WORLD or Path(base).is_dir()):
        raise RecipeError(f"--revision: {base} is no repository of the Hub and has none; leave it out")
    adapter = None
    if adapters:
        _, sign, folder = adapters[0].partition("=")
        # A folder may have an equals sign in its name.
        adapter = Path(folder) if sign and not Path(adapters[0]).is_dir() else Path(adapters[0])
    given = Given(
        base=base,
        revision=options["--revision"] or (recipe.revision if options["--base"] is None else None),
        adapter=adapter,
        prompts={key: Path(value) for key, value in prompts.items()},
        pins=pins,
        models=given_models(options["--model"]),
        overrides=overrides,
        limit=options["--limit"],
        any_rows=options["--any-rows"],
    )
    results = run_emoji_world(suite, given, recipe, out) if name == "emoji-world" else run_suite(suite, given, out)
    print(suite_table(results))
    print(f"results: {out / 'suites' / suite.name / 'results.json'}")


def at_hand(definition: "PromptSet") -> str:
    """Whether a set's prompts can be read without being given: for the list of protocols."""
    from evaluation.prompt_sets.hub_rows import is_cached

    kind = definition.loader.kind
    if kind == "shipped":
        return "yes"
    if kind == "hub":
        repo = str(definition.loader.id)
        return f"yes, {repo} is cached" if is_cached(repo) else f"no: fetched from {repo}, or a file"
    what = {"coco": "COCO's captions JSON", "dataset": "a dataset's folder", "file": "a file"}[kind]
    return f"no: give {what}"


def register(app: typer.Typer) -> None:
    """Add the verbs `protocols` and `combine` to the command."""

    @app.command()
    def protocols() -> None:
        """List the protocols: prompt set, rows, whether the prompts are at hand, and hash.

        The hash of a set without a known checksum is another one once its prompts are read."""
        from evaluation.prompt_sets.definition import load_definition
        from evaluation.protocols.protocol import content, digest, list_protocols, load_protocol
        from evaluation.suites.table import protocol_table

        entries = []
        for name in list_protocols():
            protocol = load_protocol(name)
            definition = load_definition(protocol.prompt_set)
            rows = "any" if definition.rows is None else str(definition.rows)
            stated = digest(content(protocol, definition))
            known = stated[:16] + ("" if definition.sha256 else ", without prompts")
            entries.append((name, definition.name, rows, at_hand(definition), known))
        print(protocol_table(entries))

    @app.command()
    def combine(
        results: Annotated[list[str], typer.Argument(help="NAME=PATH of results of suites, or of their folders.")],
    ) -> None:
        """Put the results of several suites side by side; refused where their protocols differ."""
        from evaluation.suites.combining import combine as put_together
        from evaluation.suites.combining import read_suite
        from evaluation.suites.table import combined_table

        paths = _by_name("combine", results, "NAME=PATH, for example mine=runs/mine/suites/paper/results.json")
        found = {name: read_suite(Path(path)) for name, path in paths.items()}
        print(combined_table(put_together(found), list(found)))
