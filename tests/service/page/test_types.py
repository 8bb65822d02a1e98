"""The modules of the page fit together: TypeScript checks the types in their comments."""

import subprocess
from pathlib import Path

from tests.system.node import FOLDER, require_node_package

PAGE = Path(__file__).parents[3] / "service" / "page"
LIB = ["ES2023", "DOM", "DOM.Iterable"]


def check_types(*arguments):
    node = require_node_package("typescript")
    program = FOLDER / "node_modules" / "typescript" / "bin" / "tsc"
    return subprocess.run(
        [node, program, *arguments],
        cwd=PAGE,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_types_fit():
    done = check_types("-p", ".")

    assert done.stdout == ""
    assert done.returncode == 0


def test_a_wrong_call_is_found(tmp_path):
    path = tmp_path / "wrong.js"
    path.write_text(
        f'import {{ rgbTable }} from "{PAGE}/static/data/colormaps.js";\nrgbTable(7);\n'
    )

    flags = ("--noEmit", "--checkJs", "--strict", "--target", "ES2022", "--lib", ",".join(LIB))
    done = check_types(*flags, "--moduleResolution", "bundler", "--module", "ES2022", path)

    assert "wrong.js(2,10): error TS2345" in done.stdout
