"""The house: imports point one way, optional libraries stay out, nobody unpickles."""

import ast
import subprocess
import sys
from pathlib import Path

import sona

ROOT = Path(sona.__file__).parent

# Rooms from the ground up; a room imports only from rooms on the floors below, or its own.
FLOORS = [
    {"errors"},
    {"types", "checks", "config"},
    {"wire", "_core"},
    {"learning", "state", "installation", "request_log"},
    {"engine"},
    {"federated"},
    {"training", "metrics"},
    {"service", "integrations"},
    {"cli"},
]
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        yield path, path.relative_to(ROOT).with_suffix("").parts


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports out"
            names = [node.module]
            if node.module == "sona":
                names = [f"sona.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "sona" and len(parts) > 1:
                yield parts[1]


def test_imports_point_one_way():
    for path, parts in modules():
        if len(parts) == 1 and parts[0] in ("__init__", "__main__"):
            continue
        for room in imported_rooms(path):
            if room in FLOOR:  # a public name of the package itself is not a room
                here = parts[0]
                assert room == here or FLOOR[room] < FLOOR[here], f"{path} imports {room}"


def test_every_module_stands_in_a_known_room():
    rooms = {parts[0] for _, parts in modules()} - {"__init__", "__main__"}
    assert rooms <= set(FLOOR)


def test_no_drawers():
    for _, parts in modules():
        assert not {"utils", "helpers", "manager", "common"} & set(parts)


def test_no_pickle_and_no_eval():
    for path, _ in modules():
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not {"pickle", "shelve", "marshal"} & {a.name for a in node.names}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), path


def test_import_brings_no_optional_library():
    code = (
        "import sys, sona, sona.federated, sona.learning;"
        "heavy = {'sklearn', 'scipy', 'matplotlib', 'torch', 'tqdm', 'rich', 'sqlite3', 'zenoh'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
