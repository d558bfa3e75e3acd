"""Imports point downwards only (DESIGN §3), and costly packages stay where they belong."""

import ast
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = "tensorpool"
REPOSITORY = Path(__file__).parents[2]

# From the top down, the parts of the package: a module, or a sub-package with all its modules.
# A part may import what stands in a lower row; parts of one row know nothing of each other.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"__main__"}),
    frozenset({"cli"}),
    frozenset({"__init__"}),
    frozenset({"doctor"}),
    frozenset({"launcher", "client"}),
    frozenset({"driver", "supervisor", "gc"}),
    frozenset({"registry", "gc_report", "agent"}),
    frozenset({"aeron"}),
    frozenset({"child", "config"}),
    frozenset({"logs", "metrics", "host_lock", "namespace", "cgroup", "aeron_directory"}),
    frozenset({"settings", "wire", "shm", "native"}),
    frozenset({"errors", "clock", "version", "fault_points", "pid_namespace", "processor", "_hot"}),
)
LEVEL = {part: number for number, row in enumerate(LAYERS) for part in row}
NO_ROW = "{} has no row in LAYERS: give it one"

# Narrower than the layers say. `wire` and `shm` can be taken out and used alone; the launcher
# never touches Aeron or the shared memory of streams (DESIGN §2).
ONLY: dict[str, frozenset[str]] = {
    "wire": frozenset({"shm", "errors"}),
    "shm": frozenset({"wire", "errors"}),
}
NEVER: dict[str, frozenset[str]] = {"launcher": frozenset({"aeron", "shm"})}

# Third-party packages with one place: the binding can be changed there, and the host's
# processes do not pay for the import of a validator.
HOME_OF: dict[str, frozenset[str]] = {
    "pyaeron": frozenset({"aeron"}),
    "pydantic": frozenset({"config"}),
    "tomli": frozenset({"config"}),
}
# Who may import a part that is costly to load: parents and clients, not the launcher's children.
IMPORTERS_OF: dict[str, frozenset[str]] = {
    "config": frozenset({"cli", "launcher", "client"}),
    "_hot": frozenset({"native"}),  # built with the package, and optional
}


class Import(NamedTuple):
    """One name that one module imports."""

    importer: str
    line: int
    target: str
    at_start: bool
    """Whether it is loaded with the module: not inside a function or under TYPE_CHECKING."""

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


def modules_of(root: Path) -> dict[str, Path]:
    """Dotted name to file of each module below `root`, the package's folder."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = [root.name, *path.relative_to(root).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def part_of(module: str) -> str:
    """The part of the package that a dotted name of ours belongs to."""
    pieces = module.split(".")
    return pieces[1] if len(pieces) > 1 else "__init__"


class _Collector(ast.NodeVisitor):
    def __init__(self, module: str, path: Path, known: dict[str, Path]) -> None:
        self.found: list[Import] = []
        self._module = module
        self._package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        self._known = known
        self._deferred = 0

    def _add(self, node: ast.stmt | ast.expr, target: str) -> None:
        self.found.append(Import(self._module, node.lineno, target, self._deferred == 0))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        origin = node.module or ""
        if node.level:
            base = self._package.split(".")[: len(self._package.split(".")) - node.level + 1]
            origin = ".".join([*base, *([origin] if origin else [])])
        for alias in node.names:
            member = f"{origin}.{alias.name}"
            self._add(node, member if member in self._known else origin)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else None
        name = node.func.id if isinstance(node.func, ast.Name) else name
        if name in {"import_module", "__import__"} and node.args:
            argument = node.args[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                self._add(node, argument.value)
        self.generic_visit(node)

    def _visit_deferred(self, node: ast.AST) -> None:
        self._deferred += 1
        self.generic_visit(node)
        self._deferred -= 1

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_deferred(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_deferred(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._visit_deferred(node)

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) not in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            self.generic_visit(node)
            return
        self._deferred += 1
        for statement in node.body:
            self.visit(statement)
        self._deferred -= 1
        for statement in node.orelse:
            self.visit(statement)


def imports_of(root: Path) -> Iterator[Import]:
    """Every import below `root`, wherever in a module it stands."""
    known = modules_of(root)
    for module, path in known.items():
        collector = _Collector(module, path, known)
        collector.visit(ast.parse(path.read_text(encoding="utf-8"), str(path)))
        yield from collector.found


def fault_of(found: Import) -> str | None:
    """Why an import is not allowed, or None."""
    importer = part_of(found.importer)
    package = found.target.partition(".")[0]
    if package != PACKAGE:
        home = HOME_OF.get(package, {importer})
        return None if importer in home else f"only {_listed(home)} may import {package}"
    target = part_of(found.target)
    if target == importer:
        return None
    if target not in LEVEL:
        return NO_ROW.format(target)
    return _special_fault(importer, target) or _direction_fault(found, importer, target)


def _special_fault(importer: str, target: str) -> str | None:
    if target not in ONLY.get(importer, {target}):
        return f"{importer} may import only {_listed(ONLY[importer])}"
    if target in NEVER.get(importer, ()):
        return f"{importer} may never import {target}"
    if importer not in IMPORTERS_OF.get(target, {importer}):
        return f"only {_listed(IMPORTERS_OF[target])} may import {target}"
    return None


def _direction_fault(found: Import, importer: str, target: str) -> str | None:
    if target in ONLY.get(importer, ()):
        return None
    # The root runs before every module of the package, in each of the host's processes.
    if importer == "__init__" and found.at_start and LEVEL[target] != len(LAYERS) - 1:
        return "the package's root may load only the lowest layer at start; the rest on first use"
    if LEVEL[target] <= LEVEL[importer]:
        return f"{target} does not stand below {importer}"
    return None


def faults_of(root: Path) -> list[str]:
    """Every breach of the direction below `root`, in words."""
    unplaced = {part_of(module) for module in modules_of(root)} - LEVEL.keys()
    judged = [
        (found, fault_of(found)) for found in imports_of(root) if part_of(found.importer) in LEVEL
    ]
    return [
        *(NO_ROW.format(part) for part in sorted(unplaced)),
        *(f"{found}: {fault}" for found, fault in judged if fault is not None),
    ]


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names))


def test_the_package_keeps_the_direction() -> None:
    assert len(modules_of(REPOSITORY / PACKAGE)) > len(LAYERS)
    assert not faults_of(REPOSITORY / PACKAGE)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small package that keeps every rule."""
    root = tmp_path / PACKAGE
    for name, text in {
        "__init__": (
            "from typing import TYPE_CHECKING\n"
            "from tensorpool.errors import Error\n"
            "if TYPE_CHECKING:\n    from tensorpool.client import connect\n"
            "def __getattr__(name): import tensorpool.client\n"
        ),
        "errors": "class Error(Exception): ...\n",
        "settings": "from .errors import Error\n",
        "wire/__init__": "from tensorpool.shm import layout\n",
        "shm/__init__": "",
        "shm/layout": "from ..errors import Error\nfrom . import paths\n",
        "shm/paths": "from tensorpool import wire\n",
        "config/__init__": "import pydantic\nimport tomli\n",
        "aeron/__init__": "import pyaeron\nfrom tensorpool import settings\n",
        "driver/process": "from tensorpool.aeron import client\nimport os.path\n",
        "gc/__init__": "import gc\n",
        "launcher/__init__": "ENTRY = 'tensorpool.driver.process:main'\n",
        "client/__init__": "from tensorpool import config, shm\n",
        "cli/__init__": "import tensorpool\nfrom tensorpool.launcher import run\n",
    }.items():
        path = root / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_a_tree_that_keeps_the_rules_passes(tree: Path) -> None:
    assert faults_of(tree) == []


@pytest.mark.parametrize(
    ("module", "statement", "because"),
    [
        ("driver/bad", "import tensorpool.launcher", "launcher does not stand below driver"),
        ("driver/bad", "from tensorpool import gc", "gc does not stand below driver"),
        ("driver/bad", "from ..supervisor import policy", "supervisor does not stand below driver"),
        ("driver/bad", "import tensorpool", "__init__ does not stand below driver"),
        ("driver/bad", "def f():\n    from tensorpool import cli", "cli does not stand below"),
        ("driver/bad", "import_module('tensorpool.client')", "client does not stand below driver"),
        ("driver/bad", "from tensorpool.config import load", "may import config"),
        ("settings", "from tensorpool.logs import log", "logs does not stand below settings"),
        ("wire/bad", "from tensorpool.clock import now", "wire may import only errors, shm"),
        ("shm/bad", "from tensorpool import settings", "shm may import only errors, wire"),
        ("launcher/bad", "from tensorpool.aeron import cnc", "launcher may never import aeron"),
        ("launcher/bad", "from tensorpool.shm.layout import X", "launcher may never import shm"),
        ("client/bad", "import pyaeron", "only aeron may import pyaeron"),
        ("cli/bad", "from pydantic import BaseModel", "only config may import pydantic"),
        ("logs", "import tomli", "only config may import tomli"),
        ("__init__", "from tensorpool.client import connect", "only the lowest layer at start"),
        ("novelty", "import os", "novelty has no row in LAYERS"),
        ("cli/bad", "from tensorpool.absent import x", "absent has no row in LAYERS"),
    ],
)
def test_each_breach_is_found(tree: Path, module: str, statement: str, because: str) -> None:
    (tree / f"{module}.py").write_text(f"{statement}\n", encoding="utf-8")

    (fault,) = faults_of(tree)

    assert because in fault
