"""Markdown as a manual page: what `man` reads, from a page of docs/.

The one hard idea: a manual page has no links and two levels of headings. Headings of
the second level become sections, those of the third entries; a link to another place of
the page is its text alone, one to another page names its file.
"""

import re
from collections.abc import Iterator
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

BOLD, ITALIC, PLAIN = r"\fB", r"\fI", r"\fR"
FONTS: Final = {
    "strong_open": BOLD,
    "strong_close": PLAIN,
    "em_open": ITALIC,
    "em_close": PLAIN,
}
FONT: Final = re.compile(r"\\f[BIR]")
# Characters of a line of text, with the margin of a terminal of 80.
TABLE: Final = 72
# What a line may not begin with, lest it be a request.
REQUESTS: Final = ("'", ".")


def page(markdown: str, title: str, section: int, footer: str, name: str) -> str:
    """Return a whole manual page; its first heading, a title, is left out."""
    head = [
        "'\\\" t",
        f'.TH "{title}" "{section}" "" "{footer}" ""',
        ".nh",
        ".ad l",
        ".SH NAME",
        escaped(name),
        ".SH DESCRIPTION",
    ]
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    return "\n".join([*head, *Roff(tokens).lines()]) + "\n"


def escaped(text: str) -> str:
    """Return *text* as roff takes it for itself."""
    return text.replace("\\", "\\e").replace("-", "\\-")


def line(text: str) -> str:
    """Return *text* as one line that is no request."""
    text = " ".join(text.split())
    return f"\\&{text}" if text.startswith(REQUESTS) else text


def spans(token: Token) -> str:
    """Return the text of a paragraph, a heading or a cell."""
    found: list[str] = []
    target = ""
    for one in token.children or ():
        if one.type == "text":
            found.append(escaped(one.content))
        elif one.type == "code_inline":
            found.append(f"{BOLD}{escaped(one.content)}{PLAIN}")
        elif one.type in FONTS:
            found.append(FONTS[one.type])
        elif one.type in ("softbreak", "hardbreak"):
            found.append(" ")
        elif one.type == "link_open":
            target = str(one.attrs["href"]).partition("#")[0]
        elif one.type == "link_close" and target:
            found.append(f" ({escaped(target)})")
    return line("".join(found))


class Roff:
    """Turns the blocks of a page into lines of roff."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = iter(tokens)
        # Of each open list: the number of its next item, 0 for bullets.
        self.lists: list[int] = []
        # The first paragraph of an item stands behind its bullet.
        self.begun = False

    def lines(self) -> Iterator[str]:
        """Every block, one after the other."""
        for token in self.tokens:
            if token.type == "heading_open":
                yield from self.heading(token.tag, next(self.tokens))
            elif token.type == "inline":
                if not self.begun:
                    yield ".IP" if self.lists else ".PP"
                self.begun = False
                yield spans(token)
            elif token.type in ("fence", "code_block"):
                yield from example(token.content)
            elif token.type == "table_open":
                yield from self.table()
            else:
                yield from self.item(token)

    def heading(self, tag: str, inline: Token) -> Iterator[str]:
        """A section, or an entry of one."""
        text = FONT.sub("", spans(inline))
        if tag == "h2":
            yield f'.SH "{text.upper()}"'
        elif tag != "h1":
            yield f'.SS "{text}"'

    def item(self, token: Token) -> Iterator[str]:
        """Lists, by what begins and ends them."""
        if token.type in ("bullet_list_open", "ordered_list_open"):
            if self.lists:
                yield ".RS"
            self.lists.append(int(token.type == "ordered_list_open"))
        elif token.type in ("bullet_list_close", "ordered_list_close"):
            self.lists.pop()
            if self.lists:
                yield ".RE"
        elif token.type == "list_item_open":
            mark = f"{self.lists[-1]}." if self.lists[-1] else "\\(bu"
            self.lists[-1] += bool(self.lists[-1])
            yield f".IP {mark} 3"
            self.begun = True

    def table(self) -> Iterator[str]:
        """A table whose cells are filled like paragraphs."""
        rows: list[list[str]] = []
        for token in self.tokens:
            if token.type == "table_close":
                break
            if token.type == "tr_open":
                rows.append([])
            elif token.type == "inline":
                rows[-1].append(spans(token))
        columns = len(rows[0])
        # The first column has room for its longest word; the others share what is left.
        words = [word for row in rows for word in FONT.sub("", row[0]).split()]
        first = max(len(word) for word in words)
        others = (TABLE - first - 3 * columns) // max(columns - 1, 1)
        widths = [f"lw({first}n)", *[f"lw({others}n)"] * (columns - 1)]
        yield from (".PP", ".TS", "allbox;")
        yield " ".join(["lB"] * columns)
        yield f"{' '.join(widths)}."
        for row in rows:
            yield "\t".join(f"T{{\n{cell}\nT}}" for cell in row)
        yield from (".TE", ".sp")


def example(text: str) -> Iterator[str]:
    """Lines that stay as they are."""
    yield from (".PP", ".RS 4", ".nf")
    for one in text.rstrip("\n").split("\n"):
        one = escaped(one)
        yield f"\\&{one}" if one.startswith(REQUESTS) else one
    yield from (".fi", ".RE")
