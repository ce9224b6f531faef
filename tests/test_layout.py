"""The shape of the project: imports point one way, and `datasets/` shadows nothing."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from tests.conftest import PROJECT

#: From the top down: each may import those after it, never those before.
ORDER = ("app", "ui", "evals", "distiller")


def module_name(path: Path) -> str:
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> dict[str, Path]:
    files = [PROJECT / "app.py"]
    for package in ORDER[1:]:
        files += sorted((PROJECT / package).rglob("*.py"))
    return {module_name(path): path for path in files if path.exists()}


MODULES = sources()


def _imported(node: ast.AST, module: str, is_package: bool) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = module.split(".")
            parts = parts[: len(parts) - node.level + is_package]
            base = ".".join([*parts, *([base] if base else [])])
        # `from package import name`: the name may be a module of its own
        return [f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base for a in node.names]
    return []


def imports(module: str, *, at_load: bool = False) -> set[str]:
    """What `module` imports of this project. `at_load`: only what runs when it is loaded."""
    path = MODULES[module]
    is_package = path.name == "__init__.py"
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if at_load:
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                    continue
                if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                    continue
            found.update(_imported(child, module, is_package))
            walk(child)

    walk(ast.parse(path.read_text("utf-8")))
    return {name for name in found if name.split(".")[0] in ORDER}


def test_there_is_something_to_walk() -> None:
    assert {"distiller.schema", "distiller.chat.base", "evals.report"} <= set(MODULES)
    assert "distiller.schema" in imports("distiller.chat.base")
    assert "distiller.student" in imports("distiller.pipeline")


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    rank = ORDER.index(module.split(".", maxsplit=1)[0])
    backwards = sorted(name for name in imports(module) if ORDER.index(name.split(".")[0]) < rank)
    assert backwards == []


def test_no_circles_between_modules() -> None:
    """Over what runs at load time; an import inside a function is not part of a circle."""
    graph = {
        module: {name for name in imports(module, at_load=True) if name in MODULES and name != module}
        for module in MODULES
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            pytest.fail("a circle of imports: " + " → ".join([*path[path.index(module) :], module]))
        if module in done:
            return
        for name in sorted(graph[module]):
            visit(name, (*path, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def test_packages_of_one_level_do_not_import_each_other_s_tests() -> None:
    assert [m for m in MODULES if any(name.startswith("tests") for name in imports(m))] == []


def test_no_python_under_datasets() -> None:
    assert [str(p) for p in (PROJECT / "datasets").rglob("*.py")] == []


def test_datasets_is_the_installed_package() -> None:
    spec = importlib.util.find_spec("datasets")
    assert spec is not None
    assert spec.origin is not None, "find_spec found the folder of this project"
    assert PROJECT / "datasets" not in Path(spec.origin).parents
    required = (PROJECT / "requirements.txt").read_text("utf-8").splitlines()
    assert any(re.match(r"datasets\b", line) for line in required)


def test_app_is_an_entry_and_no_more() -> None:
    assert len((PROJECT / "app.py").read_text("utf-8").splitlines()) < 20
