"""Run all examples of a page in this process, in an empty working directory.

`python -m tests.documentation.run_page PAGE`. What a page assumes its reader to have (a model, videos, a data
set) is prepared by `tests.documentation.page_<name>`, if there is such a module. It may define

    prepare(page_folder) -> names that the examples use
    commands(words) -> words of a `modeling-lavis` command as it is run here, or None to leave it out
    CHECKS: heading -> function of the names, called after the last example below that heading
"""

import importlib.util
import shlex
import sys
from pathlib import Path
from typing import Any

from tests.documentation.examples import Example, find_examples, run_example


def setup_of(page: Path) -> Any:
    """The module that prepares a page, or None."""
    name = f"tests.documentation.page_{page.stem.lower()}"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def commands_of(example: Example) -> list[list[str]]:
    """Commands of a shell example, as lists of words without comments and continuation lines."""
    lines = example.code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True)) and words[0] == "modeling-lavis"]


def run_page(page: Path) -> None:
    """
    Run the examples of a page one after the other.

    Raises:
        AssertionError: an example does something else than the page says.
    """
    setup = setup_of(page)
    prepare, commands = getattr(setup, "prepare", None), getattr(setup, "commands", None)
    checks = dict(getattr(setup, "CHECKS", {}))
    names: dict[str, Any] = {"__name__": "__page__"}
    if prepare is not None:
        names.update(prepare(Path.cwd()))
    examples = [example for example in find_examples(page) if example.language in ("python", "bash")]
    for example, following in zip(examples, [*examples[1:], None]):
        if example.language == "python":
            run_example(example, page, names)
        elif commands is not None:
            _run_commands(example, page, commands)
        if (following is None or following.heading != example.heading) and example.heading in checks:
            checks.pop(example.heading)(names)
    assert not checks, f"{page} has no examples below {sorted(checks)}"


def _run_commands(example: Example, page: Path, commands: Any) -> None:
    from modeling_lavis.cli.main import main

    for words in commands_of(example):
        arguments = commands(words[1:])
        if arguments is not None:
            status = main([str(argument) for argument in arguments])
            assert status == 0, f"{page}:{example.line}: {' '.join(words)} ended with status {status}"


if __name__ == "__main__":
    run_page(Path(sys.argv[1]))
