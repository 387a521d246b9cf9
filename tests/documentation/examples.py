"""Examples of a documentation page: how they are found, run, and compared with the output that the page shows.

An example is a block that starts with three backticks and `python`. All examples of a page share their names, so that a
reader can paste them one after the other. What a `print` writes stands below it as comments:

    print(1 + 1)
    # 2

`...` in such a comment stands for any text, as in doctest.
"""

import ast
import contextlib
import doctest
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_FENCE = re.compile(r"^```(\w*)\s*$")
_HEADING = re.compile(r"^#{1,6} (.*)$")


@dataclass(frozen=True)
class Example:
    """A code block of a page: its language, the heading above it, the number of its first line, and its text."""

    language: str
    heading: str
    line: int
    code: str


class WrongOutput(AssertionError):
    """An example printed something else than its page shows."""


def find_examples(page: Path) -> list[Example]:
    """All code blocks of a page, in order."""
    examples: list[Example] = []
    heading, language, start, lines = "", None, 0, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        if language is None and fence:
            language, start, lines = fence.group(1), number + 1, []
        elif language is not None and line.rstrip() == "```":
            examples.append(Example(language, heading, start, "\n".join(lines) + "\n"))
            language = None
        elif language is not None:
            lines.append(line)
        elif match := _HEADING.match(line):
            heading = match.group(1)
    if language is not None:
        raise ValueError(f"{page}: the code block from line {start} on has no end.")
    return examples


def shown_outputs(code: str) -> list[tuple[ast.stmt, str | None]]:
    """Statements of a block, each with the output that is shown below it; `None` for those that do not print."""
    lines = code.splitlines()
    statements = []
    for node in ast.parse(code).body:
        shown = None
        is_definition = isinstance(node, (ast.FunctionDef, ast.ClassDef))  # which prints when it is called, not here
        if not is_definition and any(
            isinstance(part, ast.Call) and getattr(part.func, "id", "") == "print" for part in ast.walk(node)
        ):
            below = []
            for line in lines[node.end_lineno :]:
                if not line.startswith("#"):
                    break
                below.append(line.removeprefix("#").removeprefix(" "))
            shown = "\n".join(below)
        statements.append((node, shown))
    return statements


def run_example(example: Example, page: Path, names: dict[str, Any]) -> None:
    """
    Run a block statement by statement.

    Raises:
        WrongOutput: a statement prints something else than the page shows, or the page shows nothing.
    """
    for node, shown in shown_outputs(example.code):
        line = example.line + node.lineno - 1
        tree = ast.increment_lineno(ast.Module([node], []), example.line - 1)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, str(page), "exec"), names)
        if shown is None:
            continue
        if not shown:
            raise WrongOutput(f"{page}:{line}: the page does not show what this prints:\n{printed.getvalue()}")
        if not doctest.OutputChecker().check_output(shown + "\n", printed.getvalue(), _OPTIONS):
            raise WrongOutput(f"{page}:{line}: the page shows\n{shown}\nbut this prints\n{printed.getvalue()}")
