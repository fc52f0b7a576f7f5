"""Drawings show every node, fold equal blocks, and hold no markup that came from a user's text."""

import struct
import time
import xml.etree.ElementTree as ElementTree
import zlib

from einspace.draw import MAX_DRAWN, folds, label, short, to_dot, to_text
from einspace.graph import Graph, GraphNode
from einspace.render import png, svg
from grammar.domain import Scalar
from ops.spec import Cost, seq, tokens


class Builder:
    """Adds nodes one by one."""

    def __init__(self) -> None:
        self.nodes: list[GraphNode] = []

    def add(self, op: str, *inputs: int, params: int = 0, module: str = "", **args: Scalar) -> int:
        number = len(self.nodes)
        kind = tokens(64, 256) if op == "input" else seq(64, 128)
        sources = tuple((i, 0) for i in inputs)
        node = GraphNode(
            number, op, args, {}, sources, (), (kind,), module or f"m{number}", Cost(params=params)
        )
        self.nodes.append(node)
        return number

    def block(self, x: int, shared: str = "") -> int:
        """A pre-norm transformer block; `shared` prefixes the module keys."""

        def key(part: str) -> str:
            return f"{shared}{part}" if shared else ""

        norm = self.add("rms_norm", x, params=128, module=key("a"))
        mixed = self.add("softmax_attn", norm, params=65_536, module=key("b"), heads=4, causal=True)
        x = self.add("add", x, mixed)
        norm = self.add("rms_norm", x, params=128, module=key("c"))
        wide = self.add("swiglu", norm, params=131_072, module=key("d"), mult=2.5)
        return self.add("add", x, wide)

    def graph(self, out: int) -> Graph:
        return Graph(tuple(self.nodes), ((out, 0),))


def gpt(layers: int, shared: str = "") -> Graph:
    b = Builder()
    x = b.add("embed", b.add("input", name="tokens"), params=32_768, dim=128)
    for _ in range(layers):
        x = b.block(x, shared)
    return b.graph(b.add("head", b.add("rms_norm", x, params=128), params=33_024))


def pixels(picture: bytes) -> tuple[int, int, set[int]]:
    """Width, height and the byte values of an 8-bit PNG."""
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    at, data, size = 8, b"", (0, 0)
    while at < len(picture):
        (length,) = struct.unpack(">I", picture[at : at + 4])
        kind, body = picture[at + 4 : at + 8], picture[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            size = struct.unpack(">II", body[:8])
        data += body if kind == b"IDAT" else b""
        at += 12 + length
    return size[0], size[1], set(zlib.decompress(data))


def test_equal_blocks_are_folded_once() -> None:
    graph = gpt(12)
    big = [f for f in folds(graph) if f.times > 1]
    assert [(f.size, f.times, f.shared) for f in big] == [(6, 12, False)]
    assert sum(f.size * f.times for f in folds(graph)) == len(graph.nodes)
    assert to_dot(graph).count("softmax_attn") == 1
    assert "x 12" in to_dot(graph)


def test_a_fold_says_that_its_copies_share_weights() -> None:
    assert [f.shared for f in folds(gpt(4, "s")) if f.times > 1] == [True]
    assert "x 4, shared weights" in to_text(gpt(4, "s"))


def test_copies_that_share_only_a_part_are_not_folded() -> None:
    b = Builder()
    x = b.add("input", name="x")
    for _ in range(4):
        x = b.add("linear", b.add("linear", x, params=9, module="one"), params=9)
    assert all(f.times == 1 for f in folds(b.graph(x)))
    assert to_dot(b.graph(x)).count("  shared") == 4


def test_a_value_read_from_afar_stops_the_fold() -> None:
    b = Builder()
    x = first = b.add("embed", b.add("input", name="x"))
    for _ in range(4):
        x = b.block(x)
    graph = b.graph(b.add("add", x, first))
    assert all(f.times == 1 for f in folds(graph))
    assert f"n{first} -> n{len(graph.nodes) - 1};" in to_dot(graph)


def test_text_has_a_line_per_node_with_type_parameters_and_far_inputs() -> None:
    text = to_text(gpt(1))
    lines = text.splitlines()
    assert len(lines) == len(gpt(1).nodes)
    assert lines[3].split() == ["3", "softmax_attn(heads=4,", "causal)", "seq[64,128]", "65.5K"]
    assert lines[4].endswith("<- 1, 3")


def test_hostile_names_stay_inside_their_label() -> None:
    evil = '"]; x [label="<script>alert(1)</script>\\n\x00\n&lt;'
    b = Builder()
    graph = b.graph(b.add("linear", b.add("input", name=evil), kind=evil))
    picture = svg(to_dot(graph))
    root = ElementTree.fromstring(picture)
    assert {tag.tag.rpartition("}")[2] for tag in root.iter()} <= {
        *("svg", "g", "title", "polygon", "path", "text"),
    }
    shown = "".join(root.itertext())
    assert "<script>alert(1)</script>" in shown
    assert "&lt;" in shown
    assert len([g for g in root.iter() if g.get("class") == "node"]) == 3


def test_labels_are_short_and_printable() -> None:
    b = Builder()
    b.add("linear", kind="a\nb" * 200)
    text = label(b.nodes[0])
    assert len(text) == 100
    assert text.isprintable()
    assert [short(n) for n in (7, 65_536, 1_234_567)] == ["7", "65.5K", "1.23M"]


def test_a_huge_graph_is_cut_and_says_so() -> None:
    b = Builder()
    x = b.add("input", name="x")
    for width in range(MAX_DRAWN + 50):
        x = b.add("linear", x, params=width + 1)
    assert "... and 51 more nodes" in to_dot(b.graph(x))
    assert "... and 51 more nodes" in to_text(b.graph(x))
    assert "<svg" in svg(to_dot(b.graph(x)))


def test_a_gpt_of_12_layers_draws_in_less_than_a_second_of_cpu() -> None:
    svg(to_dot(gpt(1)))
    started = time.process_time()
    picture = svg(to_dot(gpt(12)))
    assert time.process_time() - started < 1.0
    assert picture.startswith('<svg width="')
    assert "pt" not in picture[:60]


def test_png_shows_text_without_system_fonts() -> None:
    words = svg('digraph { a [label="softmax" shape=none fontname="DejaVu Sans Mono"] }')
    blank = svg('digraph { a [label=" " shape=none fontname="DejaVu Sans Mono"] }')
    _, _, with_text = pixels(png(words))
    _, _, without = pixels(png(blank))
    assert len(with_text) > 20 > len(without)
    assert pixels(png(words, zoom=4.0))[0] > 1.9 * pixels(png(words, zoom=2.0))[0]
