"""A corpus of hostile contributions, made when a test asks for them: nothing of it is committed as a file."""

from tests.hub.hostile import files, parquets, pictures, tables, texts
from tests.hub.hostile.kinds import KINDS, SECRET, USER, Kind

__all__ = ["KINDS", "SECRET", "USER", "Kind", "files", "parquets", "pictures", "tables", "texts"]
