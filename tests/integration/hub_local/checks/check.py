"""What a check is, and how a module lists its own."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.integration.hub_local.world import MODES, World


@dataclass(frozen=True)
class Check:
    """A named check.

    Args:
        name (`str`): of the function.
        run (`Callable[[World], None]`): raises where the hub is not as the client expects it.
        modes (`tuple[str, ...]`): the modes in which it says something.
        client_bug (`str`): where the client itself is at fault: its cause. Then the check must fail.
        client_error (`str`): what that failure's traceback must hold, so that no other failure passes for it.
    """

    name: str
    run: Callable[[World], None]
    modes: tuple[str, ...] = MODES
    client_bug: str = ""
    client_error: str = ""

    def judge(self, error: str) -> str:
        """What came of it: `passed`, `failed`, or `client bug`, from the traceback of a run or its absence."""
        if not self.client_bug:
            return "failed" if error else "passed"
        return "client bug" if error and self.client_error in error else "failed"


class Checks(list[Check]):
    """The checks of a module: `@CHECKS.add` puts a function on the list."""

    def add(self, run: Callable[[World], None]) -> Callable[[World], None]:
        self.append(Check(run.__name__, run))
        return run

    def add_client_bug(
        self, cause: str, error: str, modes: tuple[str, ...] = MODES
    ) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
        """As `add`, for a check that the client's own fault makes fail."""

        def put(run: Callable[[World], None]) -> Callable[[World], None]:
            self.append(Check(run.__name__, run, modes, cause, error))
            return run

        return put
