"""What one look at something found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from restore_diff.data.listing import first_names

Status = Literal["ok", "note", "warn", "FAIL"]
"""note: nothing is wrong, but good to know. warn: a number may not mean what it seems to. FAIL: it will not work."""


@dataclass(frozen=True)
class Check:
    subject: str
    """"machine", or the data set."""
    name: str
    status: Status
    text: str
    advice: str = ""
    """What to do about it."""
    items: Sequence[str] = ()
    """All files or pairs that are meant; a line shows the first of them."""

    def line(self) -> str:
        """One line: status, name, what was found, what to do."""
        named = f": {first_names(self.items)}" if self.items else ""
        return f"{self.status:4}  {self.name:10}  {self.text}{named}{f'; {self.advice}' if self.advice else ''}"

    def plain(self) -> dict[str, Any]:
        """Plain values for JSON, with every item."""
        return vars(self) | {"items": list(self.items)}
