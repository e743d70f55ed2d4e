"""Every text that our sources can send to a client as an error, read off the sources.

The one hard idea: who is told is a matter of arguments. `Disconnect(text,
notify=False)` and `server.disconnect(text, True, False)` only close; with one argument,
or True in the right place, the client reads the text. What stands in a variable is
looked for in the function and the module around it.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

# Places of "text" among the arguments, by what is called.
RAISED: Final = {
    "CommandError": 0,
    "Disconnect": 0,
    "LoginFailed": 2,
    "ServerError": -1,
    "_refuse": 1,
    "cannot_answer": 2,
    "database": 0,
    "error_response": 0,
}
# What is put together from the argument and more.
SHAPED: Final = {
    "_refuse": "{}: ...",
    "cannot_answer": "server login failed: {}",
    "database": "{}: ...",
}
# Which argument, of so many, is False where the client is not told.
CLOSED: Final = {1: None, 2: 1, 3: 2}
PYX_CALL: Final = re.compile(r"\b(end|disconnect|error_response|misused)\(")
PYX_TEXT: Final = re.compile(r"(?<!b)\"((?:[^\"\\]|\\.)*)\"")
PYX_BYTES: Final = re.compile(r"\bb\"[^\"]*\"")
NESTED: Final = re.compile(r"\([^()\"]*\)")
HOLE: Final = "..."


def template(node: ast.AST) -> str | None:
    """The text of a literal, with `...` for what it is filled with; None for others."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else HOLE
            for part in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = template(node.left), template(node.right)
        return (left or HOLE) + (right or HOLE) if left or right else None
    return None


def meanings(node: ast.AST, scopes: list[ast.AST]) -> list[str]:
    """Every text that an argument may be, as far as literals around it say."""
    text = template(node)
    if text is not None:
        return [text]
    if isinstance(node, ast.IfExp):
        return meanings(node.body, scopes) + meanings(node.orelse, scopes)
    if isinstance(node, ast.BoolOp):
        return [one for part in node.values for one in meanings(part, scopes)]
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "cut":
        return meanings(node.args[0], scopes)
    if not isinstance(node, ast.Name):
        return []
    found = []
    for scope in scopes:
        # Of a module what stands at its top: the functions have names of their own.
        for one in scope.body if isinstance(scope, ast.Module) else ast.walk(scope):
            targets = getattr(one, "targets", [getattr(one, "target", None)])
            if isinstance(one, ast.Assign | ast.AnnAssign) and any(
                isinstance(target, ast.Name) and target.id == node.id
                for target in targets
            ):
                if one.value is not None and not isinstance(one.value, ast.Name):
                    found += meanings(one.value, scopes)
        if found:
            break
    return found


def is_false(node: ast.AST | None) -> bool:
    """Whether an argument is the word False."""
    return isinstance(node, ast.Constant) and node.value is False


def called(node: ast.Call) -> str:
    """The last name of what is called."""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def argument(node: ast.Call) -> ast.AST | None:
    """The text of a call that tells a client something, None if it does not."""
    name, given = called(node), node.args
    if any(word.arg == "notify" and is_false(word.value) for word in node.keywords):
        if name not in ("LoginFailed", "cannot_answer"):
            return None
    if name in RAISED:
        at = RAISED[name]
        return given[at] if 0 <= at < len(given) else None
    if name == "disconnect" and given and len(given) in CLOSED:
        told = CLOSED[len(given)]
        return None if told is not None and is_false(given[told]) else given[0]
    return None


def in_python(path: Path) -> Iterator[str]:
    """The texts of one Python source."""
    tree = ast.parse(path.read_text())
    above = {
        child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)
    }
    for node in ast.walk(tree):
        text = argument(node) if isinstance(node, ast.Call) else None
        if not isinstance(node, ast.Call) or text is None:
            continue
        around: list[ast.AST] = []
        step: ast.AST | None = node
        while (step := above.get(step)) is not None:
            if isinstance(step, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
                around.append(step)
        shape = SHAPED.get(called(node), "{}")
        for found in meanings(text, around):
            yield shape.format(found)


def in_cython(path: Path) -> Iterator[str]:
    """The texts of one Cython source: what stands in the call's parentheses."""
    source = re.sub(r"(?m)^\s*#.*$", "", path.read_text())
    for match in PYX_CALL.finditer(source):
        inside = closed(source[match.end() :])
        parts = arguments(inside)
        first = PYX_BYTES.sub("", parts[0]).replace('"big"', "")
        while first != (shorter := NESTED.sub("", first)):
            first = shorter
        texts = [found[1] for found in PYX_TEXT.finditer(first)]
        if not texts:
            continue
        # Client.end(reason, notify, sqlstate), Server.end(reason, terminate, notify,
        # sqlstate): what is told stands before the SQLSTATE.
        if match[1] == "end" and parts[-2].strip() == "False":
            continue
        if " if " in first:
            yield from texts
        else:
            text = (HOLE if "+" in first else "").join(texts)
            yield re.sub(r"\{[^{}]*\}", HOLE, text)


def closed(source: str) -> str:
    """What stands before the parenthesis that closes."""
    depth, quoted = 1, False
    for at, char in enumerate(source):
        if char == '"':
            quoted = not quoted
        elif not quoted:
            depth += (char == "(") - (char == ")")
        if not depth:
            return source[:at]
    raise AssertionError("a call that does not end")


def arguments(inside: str) -> list[str]:
    """The arguments of a call."""
    found, depth, quoted, start = [], 0, False, 0
    for at, char in enumerate(inside):
        if char == '"':
            quoted = not quoted
        elif quoted:
            continue
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == "," and not depth:
            found.append(inside[start:at])
            start = at + 1
    return [*found, inside[start:]]


@cache
def every(root: Path) -> dict[str, str]:
    """Each text, and a place where it comes from."""
    found: dict[str, str] = {}
    for package in ("bouncer", "admin"):
        for path in sorted((root / package).rglob("*.py*")):
            inside = path.relative_to(root)
            if "check" in inside.parts or path.suffix not in (".py", ".pyx"):
                continue
            read = in_python if path.suffix == ".py" else in_cython
            for text in read(path):
                if re.search("[a-z]", text):
                    found.setdefault(text, str(inside))
    return found
