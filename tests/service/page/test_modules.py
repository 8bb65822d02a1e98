"""The modules of the page: what the browser is told to load, and what they export."""

import re
from pathlib import Path

import pytest

from service.page.files import STATIC

MODULES = sorted(path for path in STATIC.rglob("*.js") if path.parent.name != "vendor")
IMPORT = re.compile(r'^(?:import|export) (?:[^"]*? from )?"(\.[^"]+)";$', re.MULTILINE)
EXPORT = re.compile(r"^export (?:async )?(?:function|class|const|let) (\w+)", re.MULTILINE)


def needed_by(module: Path) -> set[Path]:
    """Return all modules that a module needs before it runs, and itself."""
    found, waiting = set(), [module]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [(path.parent / name).resolve() for name in IMPORT.findall(read(path))]
    return found


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_the_first_view_preloads_every_module_that_it_needs():
    """Otherwise the browser learns of them level by level, each after an answer."""
    main = (STATIC / "main.js").resolve()
    needed = {path.relative_to(STATIC.resolve()).as_posix() for path in needed_by(main) - {main}}

    named = re.findall(
        r'<link rel="modulepreload" href="page/([^"]+)">', read(STATIC / "index.html")
    )

    assert named == sorted(needed)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(STATIC).as_posix())
def test_what_a_module_exports_is_used_elsewhere(module):
    others = [
        *MODULES,
        *Path(__file__).parent.glob("*.mjs"),
        *Path(__file__).parent.glob("test_*.py"),
    ]
    elsewhere = "\n".join(read(path) for path in others if path != module)

    unused = [
        name for name in EXPORT.findall(read(module)) if not re.search(rf"\b{name}\b", elsewhere)
    ]

    assert unused == []
