"""Docstrings as Markdown, for the API reference: an extension of griffe, which mkdocstrings uses.

Docstrings of this package are Markdown with Google's sections and transformers' entries:

    Args:
        name (`type` of shape `(B, T)`, *optional*): text, or text on the next, indented lines.

griffe's parser of Google style splits such an entry at the first space and colon, which loses types with commas and
entries that describe two arguments. So sections become lists here, and the parser is left out.

Docstrings come from the imported objects instead of the source, because some are completed at import time by
`modeling_lavis.models.forward_options.add_shared_arguments`.
"""

import copy
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

_SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Example|Examples)(?: \((.*)\))?:\s*(.*)$")
_ENTRY = re.compile(r"^(?:    )(\*{0,2}[A-Za-z_]\w*)")
_ERRORS = re.compile(r"^    [A-Z]\w+(?:, [A-Z]\w+)*:")
_SESSION = re.compile(r"(\*\*Example:\*\*\n\n)(>>> .+(?:\n.+)*)")
_TITLES = {"Args": "Arguments", "Examples": "Example"}
_REFERENCE = re.compile(r"\[`~?([\w.]+)`\](?!\[|\()")
_DIRECTIVE = re.compile(r"^::: ([\w.]+)$", flags=re.MULTILINE)


def documented(folder: Path) -> dict[str, str]:
    """Full name of every object that has an entry in the reference, by its short name and by its full name."""
    names: dict[str, str] = {}
    for page in sorted(folder.rglob("*.md")):
        for name in _DIRECTIVE.findall(page.read_text(encoding="utf-8")):
            names[name] = name
            names[name.rpartition(".")[2]] = name
    return names


def to_markdown(text: str, owner: str, names: dict[str, str]) -> str:
    """
    A docstring as plain Markdown.

    Args:
        text (`str`): the docstring, without indentation.
        owner (`str`): full name of the class or module of the object, for references to its members.
        names (`dict[str, str]`): what can be linked to, see [`documented`].
    """
    text = re.sub(r"[ ]*# doctest: \+SKIP$", "", text, flags=re.MULTILINE)
    lines: list[str] = []
    section, in_code = "", False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            in_code = not in_code
        match = None if in_code else _SECTION.match(line)
        if match:
            section, note, rest = match.groups()
            title = _TITLES.get(section, section) + (f" ({note})" if note else "")
            lines += ["", f"**{title}:**" + (f" {rest}" if rest else ""), ""]
        elif not section or in_code or section.startswith("Example") or not line.startswith("    "):
            if section and line and not line.startswith((" ", "`")):
                section = ""
            lines.append(line[4:] if section.startswith("Example") and line.startswith("    ") else line)
        elif section == "Args" and _ENTRY.match(line):
            lines.append("- " + _mark_names(line.strip()))
        elif section == "Raises" and _ERRORS.match(line):
            lines.append("- " + line.strip())
        elif section in ("Args", "Raises"):
            lines.append("    " + line.strip())
        else:
            lines.append(line.strip())
    markdown = _SESSION.sub(r"\1```python\n\2\n```", "\n".join(lines) + "\n")
    return _REFERENCE.sub(lambda match: _link(match.group(1), owner, names), markdown)


def _mark_names(entry: str) -> str:
    """The names in front of an entry in bold type."""
    names = re.match(r"[\w*]+(?:, [\w*]+)*", entry)
    if names is None:
        return entry
    marked = ", ".join(f"**`{name}`**" for name in names.group().split(", "))
    return marked + entry[names.end() :]


def _link(name: str, owner: str, names: dict[str, str]) -> str:
    short = name.rpartition(".")[2]
    for target in (name, f"{owner}.{name}", short):
        if target in names:
            return f"[`{short}`][{names[target]}]"
    return f"`{name}`"


class RuntimeDocstrings(griffe.Extension):
    """
    Replaces docstrings by those of the imported objects, as Markdown.

    Args:
        reference (`str`): folder of the pages with `:::` directives.
    """

    def __init__(self, reference: str = "docs/reference") -> None:
        self.names = documented(Path(reference))

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called by griffe for every object that it has read."""
        if obj.docstring is None:
            return
        text = _runtime_docstring(obj) or obj.docstring.value
        owner = obj.parent.path if obj.parent is not None else ""
        obj.docstring.value = to_markdown(inspect.cleandoc(text), owner, self.names)
        obj.docstring.parser = None

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """Called by griffe when it has read the package: correct what it cannot know from the source."""
        for cls in _classes(pkg):
            _keep_runtime_bases(cls)
            _resolve_assigned_methods(cls, loader)
            _drop_undocumented_overrides(cls)


def _classes(module: griffe.Module) -> Iterator[griffe.Class]:
    for member in module.members.values():
        if member.is_alias:
            continue
        if member.is_module:
            yield from _classes(member)
        elif member.is_class:
            yield member


def _keep_runtime_bases(cls: griffe.Class) -> None:
    """Mixins have protocols as bases for type checkers, whose methods would hide the real ones."""
    value = _runtime_value(cls)
    if value is not None:
        names = {base.__name__ for base in value.__bases__}
        cls.bases = [base for base in cls.bases if str(base).split("[")[0].rpartition(".")[2] in names]


def _resolve_assigned_methods(cls: griffe.Class, loader: griffe.GriffeLoader) -> None:
    """Describe `method = function` in the body of a class as a method, not as an attribute."""
    for name, member in list(cls.members.items()):
        if member.is_alias or not member.is_attribute or not isinstance(member.value, griffe.ExprName):
            continue
        try:
            function = loader.modules_collection[cls.module.resolve(member.value.name)]
        except (KeyError, griffe.NameResolutionError):
            continue
        if function.is_function and not function.is_alias:
            method = copy.copy(function)
            method.name = name
            cls.set_member(name, method)


def _drop_undocumented_overrides(cls: griffe.Class) -> None:
    """Methods without a docstring do what the inherited docstring says, so the inherited method is shown."""
    for name, member in list(cls.members.items()):
        if member.is_function and member.docstring is None:
            del cls.members[name]


def _runtime_value(obj: griffe.Object) -> Any:
    """The imported object; None for what is defined for type checkers only, or needs a package that is missing."""
    try:
        value: Any = importlib.import_module(obj.module.path)
    except ImportError as error:  # the page in the browser, which has no entry in the reference
        if error.name is None or error.name.startswith("modeling_lavis"):
            raise
        return None
    try:
        for name in obj.path.removeprefix(obj.module.path + ".").split("."):
            value = inspect.getattr_static(value, name)
    except AttributeError:
        return None
    return value


def _runtime_docstring(obj: griffe.Object) -> str | None:
    """The docstring of the imported function; other docstrings are not changed at import."""
    return getattr(_runtime_value(obj), "__doc__", None) if obj.is_function else None
