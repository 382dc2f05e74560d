"""Every call that people make of a Hub, by the stock clients: a function a check, each with a repository of its own.

`CHECKS` holds them by name. A check takes a `World` and raises where something is not as the client expects it."""

from tests.integration.hub_local.checks import (
    accounts,
    commands,
    commits,
    discussions,
    downloads,
    faults,
    files,
    gating,
    git,
    histories,
    models,
    repositories,
    tables,
    trees,
    webhooks,
)
from tests.integration.hub_local.checks.check import Check

CHECKS: dict[str, Check] = {}
for _module in (
    accounts,
    repositories,
    commits,
    histories,
    trees,
    downloads,
    files,
    discussions,
    gating,
    webhooks,
    tables,
    models,
    commands,
    git,
    faults,
):
    for _check in _module.CHECKS:
        assert _check.name not in CHECKS, _check.name
        CHECKS[_check.name] = _check
