"""The order of the house: what imports what, and that no file reaches into what another keeps to itself.

Every import counts: at the top, inside functions, and those for type checkers alone (``TYPE_CHECKING``), because a name
that is only a type still says that one module knows another. Modules that are loaded by their names count too: the
public names of `tanl` and `tanl.detectors`, the methods, and the commands.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import tanl
from tanl import detectors
from tanl.cli import main
from tools.__main__ import STUDIES

ROOT = Path(__file__).parents[1]
FOLDERS = {"tanl": "tanl", "benchmarks": "tanl.benchmarks", "corpora": "tanl.corpora", "tools": "tools"}

# From the bottom to the top. A room may import from rooms in the rows above its own, and from itself.
LAYERS = [
    ["tanl.lazy", "tanl.checks", "tanl.kernels", "tanl.corpora"],
    ["tanl.functional", "tanl.metrics"],
    ["tanl.io"],
    ["tanl.backbones"],
    ["tanl.labels"],
    ["tanl.detectors"],
    ["tanl.streams"],
    ["tanl.report"],
    ["tanl.guard"],
    ["tanl.integrations"],
    ["tanl.beyond"],
    ["tanl"],  # the public names
    ["tanl.serve"],
    ["tanl.benchmarks.data"],
    ["tanl.benchmarks.pictograms", "tanl.benchmarks.photographs"],  # sets that ship
    ["tanl.benchmarks.engine"],
    ["tanl.benchmarks.output"],
    ["tanl.benchmarks"],  # the commands
    ["tanl.cli"],
    ["tanl.__main__", "tools"],
]
ROOMS = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def module_name(path: Path) -> str:
    first, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([FOLDERS[first], *(part for part in rest if part != "__init__")])


FILES = {module_name(path): path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
LOADED_BY_NAME = {
    "tanl": {f"tanl.{home}" for home in tanl._HOME.values()},
    "tanl.detectors": {f"tanl.detectors.{home}" for home in detectors._HOME.values()},
    "tanl.cli.main": {
        *(f"tanl.cli.{name}" for name in main._COMMANDS if name != "bench"),
        *(f"tanl.benchmarks.{main._HOME.get(name, name)}" for name in main._BENCHMARKS),
    },
    "tools.__main__": {f"tools.{name.replace('-', '_')}" for name in STUDIES},
}


def imported(name: str, tree: ast.Module, *, is_package: bool) -> Iterator[str]:
    """The house's modules that a module imports, wherever in it."""
    package = name if is_package else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in FILES)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*above, node.module] if node.module else above)
            for each in node.names:
                found = f"{source}.{each.name}" if f"{source}.{each.name}" in FILES else source
                if found in FILES and found != name:
                    yield found


IMPORTS = {
    name: {*imported(name, tree, is_package=FILES[name].name == "__init__.py")}
    | LOADED_BY_NAME.get(name, set())
    for name, tree in TREES.items()
}


def room(name: str) -> str:
    """The row of `LAYERS` that a module belongs to is its longest beginning."""
    return max((each for each in ROOMS if f"{name}.".startswith(f"{each}.")), key=len)


def test_what_is_loaded_by_its_name_is_there():
    assert {each for names in LOADED_BY_NAME.values() for each in names} <= FILES.keys()
    assert len(IMPORTS["tanl"]) > 15
    assert len(IMPORTS["tanl.cli.main"]) > 8


def test_imports_of_every_kind_are_seen():
    source = """
import tanl.checks
from .. import lazy
from ..io import text
from ..io.paths import local_path
if TYPE_CHECKING:
    from .state import ActivationState
def later():
    from . import base, unknown
    from tanl.kernels import Backend
"""
    assert {*imported("tanl.detectors.mcm", ast.parse(source), is_package=False)} == {
        "tanl.checks",
        "tanl.lazy",
        "tanl.io.text",
        "tanl.io.paths",
        "tanl.detectors.state",
        "tanl.detectors.base",
        "tanl.detectors",
        "tanl.kernels",
    }
    assert {*imported("tanl.detectors", ast.parse("from .base import Detector"), is_package=True)} == {
        "tanl.detectors.base"
    }


def test_every_module_is_in_a_room():
    """A new folder or file at the top of `tanl` needs its place in the order."""
    assert {name for name in FILES if room(name) == "tanl"} == {"tanl"}
    assert {*ROOMS} <= FILES.keys()


def test_arrows_run_downward_only():
    upward = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in sorted(others)
        if room(name) != room(other) and ROOMS[room(name)] <= ROOMS[room(other)]
    ]
    assert upward == []


def test_no_circle_between_modules():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as circle:
        pytest.fail(" <- ".join(circle.args[1]))


# Public, though it begins with an underscore: the members of named tuples, and os._exit.
PUBLIC = {"_exit", "_asdict", "_fields", "_make", "_replace", "_field_defaults"}
# What other packages call so and have no other name for.
OF_OTHERS = {
    ("tanl.backbones.clip", "_orig_mod"),  # the model that torch.compile wrapped
    ("tanl.backbones.checks", "_orig_mod"),
    ("tanl.integrations.transformers", "_forward"),  # the step that a pipeline of one's own defines
    ("tanl.integrations.transformers", "_batch_size"),  # what the pipeline was made with
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in PUBLIC


def members(class_: ast.ClassDef) -> set[str]:
    """What a class calls its own: methods, attributes of the class, and those set on ``self``."""
    own: set[str] = set()
    for node in class_.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            own.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        own |= {target.id for target in targets if isinstance(target, ast.Name)}
    stored = (each for each in ast.walk(class_) if isinstance(each, ast.Attribute))
    return own | {each.attr for each in stored if isinstance(each.ctx, ast.Store) and of_self(each)}


CLASSES = {
    node.name: node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
}


def own_members(tree: ast.Module) -> set[str]:
    """What the classes of a file call their own, and what they inherit from other classes of the house."""
    own: set[str] = set()
    waiting = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    while waiting:
        class_ = waiting.pop()
        own |= members(class_)
        bases = {base.id for base in class_.bases if isinstance(base, ast.Name)}
        waiting += [CLASSES[name] for name in bases & CLASSES.keys()]
    return own


def of_self(node: ast.Attribute) -> bool:
    value = node.value
    if isinstance(value, ast.Call):
        return isinstance(value.func, ast.Name) and value.func.id == "super"
    return isinstance(value, ast.Name) and value.id in ("self", "cls")


def reached_into(tree: ast.Module) -> Iterator[str]:
    """The private members of others that a file uses, imports or asks for by name."""
    own = own_members(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if not of_self(node) and node.attr not in own:
                yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (each.name for each in node.names if is_private(each.name))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            asked = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if asked in ("getattr", "setattr", "hasattr", "delattr", "attrgetter", "methodcaller"):
                for each in node.args:
                    if (
                        isinstance(each, ast.Constant)
                        and isinstance(each.value, str)
                        and is_private(each.value)
                    ):
                        yield each.value


def test_a_private_member_of_another_file_is_seen():
    source = """
from .bank import _rows
class Ring(Detector):
    _made: int
    def merge(self, other):
        other._sums, self._sums, other._made, other._merge
        other._foreign, other._require_negatives, type(self)._merge, super()._inherited, self._inherited
        getattr(other, "_hidden"), other.__dict__, other._asdict(), operator.attrgetter("_got")
        self._sums = 0
        self.other._deep
    def _merge(self): ...
"""
    assert sorted(reached_into(ast.parse(source))) == ["_deep", "_foreign", "_got", "_hidden", "_rows"]


def test_no_file_reaches_into_private_members_of_another():
    found = {(name, member) for name, tree in TREES.items() for member in reached_into(tree)}
    assert found == OF_OTHERS
