"""Syntax errors in words: what is wrong where the parser stopped, and the way out.

The parser says which token it met and which it would have taken; the token before it tells most of
the rest. Knows the tokens of `arch.lark` by name and shows none of these names.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from grammar.errors import Source, SpaceError, Span

LEXEME = re.compile(
    r'\s+|#[^\n]*|"(?:[^"\\\n]|\\.)*"|@\w+(?:\.\w+)?|[A-Za-z_]\w*'
    r"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|>>|\.\.|.",
    re.DOTALL,
)
WORDS = {
    "SEMICOLON": "';'",
    "EQUAL": "'='",
    "COLON": "':'",
    "COMMA": "','",
    "VBAR": "'|'",
    "PLUS": "'+'",
    "STAR": "'*'",
    "FLOW": "'>>'",
    "DOTS": "'..'",
    "AS": "'as'",
    "BY": "'by'",
    "LPAR": "'('",
    "RPAR": "')'",
    "LSQB": "'['",
    "RSQB": "']'",
    "LBRACE": "'{'",
    "RBRACE": "'}'",
    "NAME": "a name",
    "NUMBER": "a number",
    "STRING": "a text in quotes",
    "AT": "a value such as @name",
    "$END": "the end of the text",
    "LET": "'let'",
    "FIX": "'fix'",
}
OPERATORS = {">>", "+", "|", "*", "as", "by", "..", ":", "=", ",", "(", "[", "{", "let", "fix"}
PARTS = {"NAME", "STRING", "AT", "LET", "FIX", "NUMBER", "LPAR", "LBRACE", "LSQB"}
PAIRS = {"(": ")", "[": "]", "{": "}"}
JOIN = "join parts with >> (one after the other), + (side by side, added) or | (a choice)"
CHARACTERS = {
    ">": "flow is written >>",
    "-": "flow is written >>; a minus sign belongs to a number: -1",
    "'": 'texts stand in double quotes: "text"',
    "@": "a value is @name in small letters",
    "/": "comments begin with #",
    ".": "a range is 2..6; an export of a named op is @name.field",
    "&": "a choice is a | b, a sum is a + b",
}


@dataclass(frozen=True, slots=True)
class Stop:
    """Where the parser stopped: the token, its kind, its place, and the kinds it wanted."""

    token: str
    kind: str
    at: int
    accepts: Collection[str]


def bad_character(source: Source, at: int) -> SpaceError:
    """A character that begins no token."""
    char = source.text[at]
    return SpaceError(
        f"{char!r} means nothing here",
        span=Span(source, at, at + 1),
        hint=CHARACTERS.get(char, "names are letters, digits and _; flow is >>, values are @name"),
    )


def syntax_error(source: Source, stop: Stop) -> SpaceError:
    """The error for a token that cannot stand where it stands."""
    before, start = _before(source.text, stop.at)
    here = Span(source, stop.at, stop.at + len(stop.token))
    if stop.kind == "$END":
        here = Span(source, start, start + len(before))
    fact, hint, at_operator = _explain(stop, before)
    return SpaceError(
        fact, span=Span(source, start, start + len(before)) if at_operator else here, hint=hint
    )


def _before(text: str, at: int) -> tuple[str, int]:
    """The last token before a place, with its start; blanks and comments are none."""
    last = ("", 0)
    for match in LEXEME.finditer(text, 0, at):
        if not match[0].isspace() and not match[0].startswith("#"):
            last = (match[0], match.start())
    return last


def _explain(stop: Stop, before: str) -> tuple[str, str, bool]:
    """Fact, hint, and whether the caret belongs under the token before."""
    token, ended = stop.token[:40], stop.kind == "$END"
    where = "at the end" if ended else f"before '{token}'"
    if before in PAIRS and token == PAIRS[before]:
        return _empty(before), "write at least one part between the brackets", False
    if before == "" and not ended:
        return f"nothing stands before '{token}'", "a text begins with a name, as in: a >> b", False
    if before in OPERATORS:
        return _after_operator(stop, before, where)
    if "SEMICOLON" in stop.accepts and stop.kind in PARTS | {"$END"}:
        return (
            f"expected ';' {where}",
            "a declaration ends with ';'; parts of one are joined with >>, + or |",
            False,
        )
    if token == ";":
        return (
            "unexpected ';'",
            "only declarations (name = body;) end with ';', the final sentence does not",
            False,
        )
    if token == "=":
        hint = "a declaration is name = body; or name(a, b=2) = body; before the final sentence"
        return "unexpected '='", hint, False
    if token == ":":
        return "unexpected ':'", "a weight is a number or a let value, as in {0.3: a | b}", False
    if token == "..":
        return "unexpected '..'", "a range is two numbers: 2..6", False
    if stop.kind in PARTS and "COMMA" in stop.accepts:
        return (
            f"expected ',' {where}",
            "write a, b; parts of one argument are joined with >>, + or |",
            False,
        )
    if stop.kind in PARTS and "FLOW" in stop.accepts:
        return f"unexpected '{token}' after '{before[:40]}'", JOIN, False
    wanted = _wanted(stop.accepts)
    return f"expected {wanted} {where}", f"here may stand {wanted}", False


def _empty(bracket: str) -> str:
    return {"{": "empty choice", "(": "empty parentheses", "[": "empty index"}[bracket]


def _after_operator(stop: Stop, before: str, where: str) -> tuple[str, str, bool]:
    ended = stop.kind == "$END"
    match before:
        case ":":
            return "weight without alternative", "write the part after it: {0.3: a | b}", True
        case "as":
            return f"expected a name after 'as', {where}", "part as name, then @name", True
        case "let" | "fix":
            hint = f"{before} name = body; ('{before}' is a word of the language)"
            return f"expected a name after '{before}', {where}", hint, True
        case "*":
            hint = "write a * 3, a * 2..6, a * n or a * {2 | 4}"
            return f"expected a count after '*', {where}", hint, True
        case ".." | "by":
            return f"expected a number after '{before}', {where}", "write 2..6 or 2..6 by 2", True
        case "=":
            return f"expected a value after '=', {where}", "write name=value", True
        case "|":
            return f"expected an alternative after '|', {where}", "remove '|' or add a part", True
        case "," | "(" | "[" | "{":
            hint = "remove it, or write what is missing"
            what = "','" if stop.token == "," else f"'{stop.token[:40]}'"
            return f"unexpected {what} after '{before}'", hint, False
    if ended or stop.token in (")", "]", "}", ";"):
        return f"unexpected '{before}' {where}", f"a part must follow '{before}'", True
    return f"unexpected '{stop.token[:40]}' after '{before}'", f"a part follows '{before}'", False


def _wanted(accepts: Collection[str]) -> str:
    words = sorted(WORDS[kind] for kind in accepts if kind in WORDS)
    return " or ".join((", ".join(words[:-1]), words[-1])).removeprefix(" or ") if words else "more"
