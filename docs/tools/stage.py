"""
Write the source of the documentation site: `python docs/tools/stage.py FOLDER`.

Pages are written for a reader of the repository, where `../README.md` is a link that works. The site has its own places
for README, CONTRIBUTING and CHANGELOG, and does not have examples and benchmarks, whose links become plain text; images
are copied. The page about the command line gets the help texts of the commands.
"""

import argparse
import os
import posixpath
import re
import shutil
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
#: files of the repository that are pages of the site -> their place in it
MOVED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"\[([^\]\n]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_CODE = re.compile(r"(^```.*?^```$)", flags=re.MULTILINE | re.DOTALL)
_COMMAND_LINE = "<!-- help texts of the commands -->"


def pages() -> dict[str, str]:
    """File of the repository -> place in the site."""
    inside = sorted(path.relative_to(TOP).as_posix() for path in (TOP / "docs").rglob("*.md"))
    return {**MOVED, **{path: path.removeprefix("docs/") for path in inside}}


def images() -> dict[str, str]:
    """Image file of the documentation -> place in the site."""
    inside = sorted(path.relative_to(TOP).as_posix() for path in (TOP / "docs").rglob("*.png"))
    return {path: path.removeprefix("docs/") for path in inside}


def with_links_of_the_site(markdown: str, source: str) -> str:
    """Text of a file of the repository, with links as they are on the site. Code blocks are left alone."""
    places = {**pages(), **images()}
    place = places[source]

    def rewritten(match: re.Match[str]) -> str:
        text, link, anchor = match.groups()
        if ":" in link:
            return match.group()
        target = places.get(posixpath.normpath(posixpath.join(posixpath.dirname(source), link)))
        if target is None:
            return text
        return f"[{text}]({posixpath.relpath(target, posixpath.dirname(place) or '.')}{anchor or ''})"

    return "".join(part if part.startswith("```") else _LINK.sub(rewritten, part) for part in _CODE.split(markdown))


def command_line() -> str:
    """The help texts of the command and of its verbs."""
    from modeling_lavis.cli.main import build_parser

    os.environ["COLUMNS"] = "100"  # argparse would ask the terminal
    parser = build_parser()
    verbs = _verbs(parser) | _verbs(build_parser("convert"))  # whose arguments the parser of all verbs leaves out
    parts = [f"```text\n{parser.format_help()}```\n"]
    parts += [f"## {name}\n\n```text\n{verb.format_help()}```\n" for name, verb in verbs.items()]
    return "\n".join(parts)


def _verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of the verbs by name."""
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(actions[0].choices)


def stage(folder: Path) -> None:
    """Write all pages into a folder, whose content is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    for source, place in pages().items():
        text = with_links_of_the_site((TOP / source).read_text(encoding="utf-8"), source)
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text.replace(_COMMAND_LINE, command_line()) if _COMMAND_LINE in text else text, "utf-8")
    for source, place in images().items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(TOP / source, folder / place)


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
