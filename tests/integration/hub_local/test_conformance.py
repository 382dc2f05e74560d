"""Every check of `checks/` in every mode, by the stock clients; each a test of its own."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.hub_local.checks import CHECKS
from tests.integration.hub_local.conformance import Outcome, checks_of, run_mode, summary
from tests.integration.hub_local.conftest import SUMMARIES
from tests.integration.hub_local.world import MODES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1000)]
_done: dict[str, dict[str, Outcome]] = {}


def _parameters() -> list[Any]:
    """All (mode, check), a mode's checks together, so that its server and its clients start once."""
    return [pytest.param(mode, name, id=f"{mode}-{name}") for mode in MODES for name in checks_of(mode)]


@pytest.fixture(scope="module")
def outcome_of(request: pytest.FixtureRequest) -> Callable[[str, str], Outcome]:
    """What came of a check; the first of a mode runs all of that mode that this run of pytest selected."""

    def find(mode: str, check: str) -> Outcome:
        if mode not in _done:
            asked = [getattr(item, "callspec", None) for item in request.session.items]
            found = {c.params["check"] for c in asked if c and c.params.get("mode") == mode and "check" in c.params}
            names = [name for name in checks_of(mode) if name in found]
            with tempfile.TemporaryDirectory() as folder:
                _done[mode] = run_mode(mode, names, Path(folder))
            SUMMARIES.append(summary(mode, _done[mode]))
        return _done[mode][check]

    return find


@pytest.mark.parametrize(("mode", "check"), _parameters())
def test_the_stock_clients_find_a_hub(mode: str, check: str, outcome_of: Callable[[str, str], Outcome]) -> None:
    error = outcome_of(mode, check).error
    came = CHECKS[check].judge(error)
    if came == "failed":
        pytest.fail(error or f"it passes now, though it is noted: {CHECKS[check].client_bug}", pytrace=False)
    if came == "client bug":
        pytest.xfail(CHECKS[check].client_bug)


def test_every_mode_has_its_checks() -> None:
    assert [len(checks_of(mode)) for mode in MODES] == [len(CHECKS)] * 3 and len(CHECKS) > 100
