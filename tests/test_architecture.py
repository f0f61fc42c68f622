"""The house is as docs/architecture.md says: imports point one way, every file says what it is for."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "robustsnn"
FILES = sorted(PACKAGE.rglob("*.py"))

# A room may import itself and the rooms of lower floors.
FLOORS = [
    {"errors", "loops", "runtime"},
    {"draws", "files", "readout", "normalization", "pixels", "pooling"},
    {"neurons", "encoding", "events"},
    {"layouts"},
    {"classifier"},
    {"gradients", "models", "datasets"},
    {"checkpoint", "selftest"},
    {"attacks"},
    {"defenses", "conversion"},
    {"energy"},
    {"evaluation"},
    {"report"},
    {"dense"},
    {"catalogue", "terminal"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(file: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "robustsnn":
                names = [f"robustsnn.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("robustsnn.")}
    return rooms


@pytest.mark.parametrize(
    "file", [f for f in FILES if room_of(f) != "__init__"], ids=lambda f: str(f.relative_to(PACKAGE))
)
def test_imports_point_downwards(file: Path) -> None:
    room = room_of(file)
    assert room in FLOOR_OF, f"{room} is a new room; give it a floor here and a line in docs/architecture.md"
    for other in imported_rooms(file) - {room}:
        lower = FLOOR_OF[other] < FLOOR_OF[room]
        assert lower, f"{file.relative_to(ROOT)} imports {other}, which is not below {room}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_first_line_says_what_the_file_is_for(file: Path) -> None:
    docstring = ast.get_docstring(ast.parse(file.read_text()))
    assert docstring
    assert len(docstring.splitlines()[0]) > 15


def test_rooms_are_in_the_architecture_page() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    missing = [f.name for f in PACKAGE.iterdir() if not f.name.startswith("_") and f.name not in page]
    assert missing in ([], ["py.typed"]), missing


def test_root_links_lead_to_the_rooms() -> None:
    for room in ("attacks", "defenses", "datasets"):
        link = ROOT / room
        assert link.is_symlink()
        assert link.resolve() == PACKAGE / room


def test_no_device_is_assumed() -> None:
    for file in FILES:
        assert not re.search(r"\.cuda\(\)", file.read_text()), file
