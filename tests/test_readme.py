"""The README: its first example is short and prints the documented results, and all heads are listed."""

import contextlib
import io
import re
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def example() -> tuple[str, list[str]]:
    """The first Python block, and the results in the comments below its `print` lines."""
    code = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert code is not None
    lines = code.group(1).splitlines()
    results = [after[2:] for line, after in zip(lines, lines[1:]) if line.startswith("print(")]
    return code.group(1), results


def test_example_prints_the_documented_results() -> None:
    code, results = example()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(README), "exec"), {})
    assert printed.getvalue().splitlines() == results


def test_example_is_short_and_at_the_top() -> None:
    code, results = example()
    statements = [line for line in code.splitlines() if line and not line.startswith("#")]
    assert len(statements) == 8
    assert len(results) == 2
    assert README.read_text(encoding="utf-8").index("```python") < 500


def test_all_heads_are_listed() -> None:
    import modeling_lavis

    text = README.read_text(encoding="utf-8")
    heads = [name for name in modeling_lavis.__all__ if re.match(r"(LavisBlip2?|Albef|Alpro)(For\w+|Model)$", name)]
    assert len(heads) >= 20
    assert [head for head in heads if f"`{head}`" not in text] == []
