"""What a plain installation imports is what it installs; anything else is asked for in one line."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
OF_MODULE = packages_distributions()
#: Imported where another has made sure of them: `_submitit`, and the WandbLogger that is logged to.
KNOWN_TO_BE_THERE = {("slurm", "submitit"), ("histograms", "wandb")}


def imports(tree: ast.AST, guarded: bool = False):
    """Top-level packages imported, each with whether a handler of missing ones is around it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], guarded) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0], guarded
        elif isinstance(node, ast.Try):
            caught = " ".join(ast.unparse(h.type) for h in node.handlers if h.type)
            inner = guarded or "ImportError" in caught or "ModuleNotFoundError" in caught
            yield from imports(ast.Module(node.body, []), inner)
            rest = [*node.handlers, *node.orelse, *node.finalbody]
            yield from imports(ast.Module(rest, []), guarded)  # type: ignore[arg-type]
        else:
            yield from imports(node, guarded)


@pytest.mark.parametrize("file", sorted(ROOT.glob("src/**/*.py")), ids=lambda file: file.stem)
def test_every_import_is_installed_or_asked_for(file):
    installed = {canonicalize_name(Requirement(text).name) for text in DEPENDENCIES}
    for module, guarded in imports(ast.parse(file.read_text())):
        if guarded or module in sys.stdlib_module_names or module == "rankbound":
            continue
        if (file.stem, module) in KNOWN_TO_BE_THERE:
            continue
        names = {canonicalize_name(name) for name in OF_MODULE.get(module, [module])}
        assert names & installed, f"{file}: {module} is not among the project's dependencies"
