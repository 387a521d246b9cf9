# SPDX-License-Identifier: Apache-2.0
"""Model cards: metadata in YAML and a text from a template. Values are data, whatever they contain.

A value is never read as a template, as YAML or as Markdown of its own: metadata are serialized and read back, values
are in one line of the text, and `escaped` names what does not come from this package.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

# Characters with a meaning in Markdown, in tables or in HTML.
_SPECIAL = re.compile(r"([\\`*\[\]<>|#])")
_FENCE = re.compile(r"^[ \t]*(```|~~~)", flags=re.MULTILINE)
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|code|multilingual")


def render_card(
    data: ModelCardData, template: str, values: Mapping[str, Any], blocks: Mapping[str, str] | None = None
) -> str:
    """
    Render a card.

    Args:
        data (`ModelCardData`): the metadata.
        template (`str`): Jinja template, with `card_data` between two lines `---` at its beginning.
        values (`Mapping[str, Any]`): values of the template. Line breaks and control characters in them, at any depth,
            become spaces.
        blocks (`Mapping[str, str]`, *optional*): values of several lines: code for fences, and Markdown of the caller.

    Returns:
        `str`: text of `README.md`.

    Raises:
        ValueError: If the metadata cannot be serialized, or are not valid (see [`metadata_problems`]).
    """
    inline = {name: _in_one_line(value) for name, value in values.items()}
    hidden = dict.fromkeys(data.to_dict(), "")  # huggingface_hub offers the metadata as values, too
    values = {**hidden, **inline, **(blocks or {})}
    content = str(ModelCard.from_template(data, template_str=template, **values))
    expected = data.to_dict()
    found = ModelCard(content).data.to_dict()
    if found != expected:
        changed = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise ValueError(
            f"The metadata of the card cannot be read back: {', '.join(changed)} would change. Expected strings, "
            "numbers, lists and mappings without control characters."
        )
    if problems := metadata_problems(data):
        raise ValueError(f"The metadata of the card are not valid: {' '.join(problems)}")
    return content


def one_line(text: str) -> str:
    """Return a text with every run of white space and control characters as one space."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def escaped(text: str) -> str:
    """Return a text in one line, without meaning for Markdown, tables and HTML."""
    return _SPECIAL.sub(r"\\\1", one_line(text)).replace("\\<", "&lt;").replace("\\>", "&gt;")


def code_span(text: str) -> str:
    """Return a text in one line as code in Markdown, also within tables."""
    return f"`{one_line(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def string_literal(text: str) -> str:
    """Return a Python string literal, with double quotes where they need no escapes, that stays in its code block."""
    plain = text.isprintable() and not set(text) & {'"', "\\", "`"}
    return f'"{text}"' if plain else repr(text).replace("`", r"\x60")


def fenced(text: str) -> str:
    """Return a block of code without lines that would end its fence."""
    return _FENCE.sub(r"'''", text).strip()


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a table in Markdown, `""` without rows. Cells are Markdown in one line."""
    if not rows:
        return ""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def metadata_problems(data: ModelCardData) -> list[str]:
    """
    What the Hub would not accept, as far as it can be known without it.

    Args:
        data (`ModelCardData`): metadata of a card.

    Returns:
        `list[str]`: a sentence for each problem.
    """
    found = data.to_dict()
    problems = []
    for name in ("license", "license_name", "license_link", "library_name", "pipeline_tag"):
        if not isinstance(found.get(name, ""), str):
            problems.append(f"{name} is {found[name]!r:.80}; expected a string.")
    if found.get("license") == "other" and not (found.get("license_name") and found.get("license_link")):
        problems.append("The license 'other' needs license_name and license_link.")
    for name in ("tags", "base_model", "datasets", "language", "metrics"):
        given = found.get(name, [])
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
            problems.append(f"{name} is {given!r:.80}; expected a string or a list of strings.")
            continue
        wrong = [text for text in texts if not _is_valid(name, text)]
        if wrong:
            problems.append(f"{name} has {', '.join(map(repr, wrong))}; expected {_EXPECTED[name]}.")
    for result in data.eval_results or ():
        if isinstance(result.metric_value, bool) or not isinstance(result.metric_value, (int, float, str)):
            problems.append(f"The metric {result.metric_type} is {result.metric_value!r:.80}; expected a number.")
    return problems


_EXPECTED = {
    "tags": "texts in one line of at most 96 characters",
    "base_model": "ids of repositories",
    "datasets": "ids of repositories",
    "language": "codes such as 'en'",
    "metrics": "texts in one line",
}


def valid_texts(name: str, given: Any) -> list[str]:
    """Return those of the given texts that the Hub accepts for an entry of the metadata."""
    texts = [given] if isinstance(given, str) else given
    return (
        [text for text in texts if isinstance(text, str) and _is_valid(name, text)] if isinstance(texts, list) else []
    )


def is_repo_id(name: str) -> bool:
    """Whether a name has the form of a repository id."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def check_place(name: str | os.PathLike[str]) -> None:
    """
    Check that a name can be that of a model.

    Args:
        name (`str` or `os.PathLike`): folder or Hub id.

    Raises:
        OSError: If it is neither an existing path nor has the form of a Hub id.
    """
    if not os.path.exists(name) and not is_repo_id(os.fspath(name)):
        raise OSError(f"There is no folder {os.fspath(name)}, and a Hub id has the form 'owner/name'.")


def _is_valid(name: str, text: str) -> bool:
    if name in ("base_model", "datasets"):
        return is_repo_id(text)
    if name == "language":
        return _LANGUAGE.fullmatch(text) is not None
    return one_line(text) == text and len(text) <= 96


def _in_one_line(value: Any) -> Any:
    """A value whose strings, at any depth, are in one line."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, Mapping):
        return {_in_one_line(name): _in_one_line(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_in_one_line(entry) for entry in value]
    return value


__all__ = [
    "check_place",
    "code_span",
    "escaped",
    "fenced",
    "is_repo_id",
    "metadata_problems",
    "one_line",
    "render_card",
    "string_literal",
    "table",
    "valid_texts",
]
