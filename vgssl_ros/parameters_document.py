"""Write the node's parameters as a document: ``python -m vgssl_ros.parameters_document docs/parameters.md``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from vgssl_ros.parameters import PARAMETERS, Specification

_HEAD = """# Parameters of the localizer node

Made from the table in `vgssl_ros/parameters.py` by `python -m vgssl_ros.parameters_document docs/parameters.md`; the
same table declares, describes and checks them. `config/localize.yaml` holds them all with their defaults.

*Takes effect*: **start** is fixed when the process starts (read-only). **configure** is read when the node is
configured; a change while it is configured is refused with the reason: clean up first, or start anew. **any time** may
be changed while the node works (`ros2 param set`). A value of another type or outside its range is refused; at the
start the node then ends with status 1 and a line that says why.

| parameter | type | range | default | takes effect | what |
|---|---|---|---|---|---|
"""


def document() -> str:
    """The whole document."""
    return _HEAD + "".join(f"{_row(item)}\n" for item in PARAMETERS)


def _row(item: Specification) -> str:
    default = json.dumps(item.default)
    cells = (f"`{item.name}`", item.type_name, item.range_text, f"`{default}`", item.effect_text, item.description)
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this program."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if len(given) != 1 or given[0].startswith("-"):
        print("usage: python -m vgssl_ros.parameters_document FILE", file=sys.stderr)
        return 2
    Path(given[0]).write_text(document(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
