# SPDX-License-Identifier: Apache-2.0
"""Conversion of published checkpoints by name: one, or all of a family."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling_lavis.hub import downloads
from modeling_lavis.hub.checkpoints import read_checkpoint
from modeling_lavis.hub.convert import convert
from modeling_lavis.hub.families import family_of
from modeling_lavis.hub.image_text import PUBLISHED_TOKENIZER
from modeling_lavis.hub.publish import check_target, publish_conversion
from modeling_lavis.hub.report import ConversionReport
from modeling_lavis.hub.repository_check import check_repository
from modeling_lavis.hub.zoo import ZooEntry, entries

_logger = logging.getLogger(__name__)


def convert_entry(
    entry: ZooEntry,
    output: str | Path,
    *,
    checkpoint: str | Path | None = None,
    mirror: str | Path | None = None,
    tokenizer: str | Path | None = None,
    vision_checkpoint: str | Path | None = None,
    language_model: str | Path | None = None,
    **options: Any,
) -> ConversionReport:
    """
    Convert a published checkpoint, from its URL to a complete repository.

    The frozen parts that BLIP-2's checkpoints leave out, and the tokenizer, are the published ones.

    Args:
        entry ([`~modeling_lavis.hub.zoo.ZooEntry`]): the checkpoint.
        output (`str` or `Path`): folder of the repository.
        checkpoint (`str` or `Path`, *optional*): another file or URL, for example weights that LAVIS has fine-tuned
            from the published ones. Defaults to the published URL.
        mirror (`str` or `Path`, *optional*): folder with the published files, instead of their URLs; see
            [`~modeling_lavis.hub.downloads.in_mirror`]. Language models and tokenizers are used from
            `MIRROR/ORG/NAME` if there is such a folder.
        tokenizer (`str` or `Path`, *optional*): folder or Hub id of another BERT tokenizer.
        vision_checkpoint (`str` or `Path`, *optional*): another file or URL of the image encoder (BLIP-2).
        language_model (`str` or `Path`, *optional*): another folder or Hub id of the language model (BLIP-2).
        options: further options of [`~modeling_lavis.hub.convert.convert`].

    Returns:
        [`~modeling_lavis.hub.report.ConversionReport`]: The report of the conversion.

    Raises:
        ValueError: See [`~modeling_lavis.hub.convert.convert`].
        OSError: See [`~modeling_lavis.hub.convert.convert`]; and if the mirror does not have a file.
    """
    given = {"vision_checkpoint": vision_checkpoint, "language_model": language_model}
    has_parts = family_of(entry.architecture).published_parts is not None
    names = tuple(read_checkpoint(checkpoint).tensors) if checkpoint is not None and has_parts else ()
    parts: dict[str, Any] = {**_published_parts(entry, mirror, given, names)}
    parts |= {name: part for name, part in given.items() if part is not None}
    return convert(
        entry.architecture,
        checkpoint if checkpoint is not None else _file(entry.source, mirror),
        output,
        model_type=entry.model_type,
        tokenizer=tokenizer or _repository(PUBLISHED_TOKENIZER, mirror),
        **parts,
        **options,
    )


def repositories_of(chosen: Iterable[ZooEntry], mirror: str | Path | None = None) -> list[str]:
    """
    Return the tokenizers and language models that conversions read: Hub ids, or folders of the mirror.

    Args:
        chosen (`Iterable[ZooEntry]`): the checkpoints.
        mirror (`str` or `Path`, *optional*): folder with the published files.
    """
    names = []
    for entry in chosen:
        family = family_of(entry.architecture)
        if entry.architecture not in family.without_tokenizer:
            names.append(PUBLISHED_TOKENIZER)
        published = {} if family.published_parts is None else family.published_parts(entry.settings)
        names += [part for part in published.values() if not downloads.is_url(part)]
    return [_repository(name, mirror) for name in dict.fromkeys(names)]


def _published_parts(
    entry: ZooEntry, mirror: str | Path | None, given: Mapping[str, Any], names: Collection[str]
) -> dict[str, str]:
    """The published frozen parts that are not given."""
    published = family_of(entry.architecture).published_parts
    parts = {} if published is None else published(entry.settings, names)
    return {
        name: _file(part, mirror) if downloads.is_url(part) else _repository(part, mirror)
        for name, part in parts.items()
        if given.get(name) is None
    }


def _file(url: str, mirror: str | Path | None) -> str:
    return url if mirror is None else str(downloads.in_mirror(url, mirror))


def _repository(name: str, mirror: str | Path | None) -> str:
    if mirror is None:
        return name
    folder = (downloads.file_of_url(str(mirror)) or Path(mirror).expanduser()) / name
    return str(folder) if folder.is_dir() else name


@dataclass(frozen=True)
class EntryResult:
    """
    What has become of one checkpoint in the conversion of a family.

    Args:
        entry ([`~modeling_lavis.hub.zoo.ZooEntry`]): the checkpoint.
        folder (`Path`): folder of its repository.
        status (`str`): `"converted"`; `"finished"` if the repository was there and passed the check; `"failed"`.
        seconds (`float`): time that it took.
        message (`str`, *optional*): the error, if it failed.
        report ([`~modeling_lavis.hub.report.ConversionReport`], *optional*): the report, if it was converted.
    """

    entry: ZooEntry
    folder: Path
    status: str
    seconds: float
    message: str | None = None
    report: ConversionReport | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the result as a dictionary that can be serialized as JSON."""
        return {
            "name": self.entry.name,
            "folder": str(self.folder),
            "status": self.status,
            "seconds": round(self.seconds, 1),
            "bytes": _size_of(self.folder),
            "message": self.message,
            "report": None if self.report is None else self.report.as_dict(),
        }


def entries_of(family: str) -> list[ZooEntry]:
    """
    Return the checkpoints of a family that are models of their own, in the order of the zoo.

    The checkpoints that LAVIS only starts trainings of an architecture from are left out.

    Raises:
        ValueError: If there is no such family.
    """
    found = [entry for entry in entries().values() if entry.family == family and entry.facts["own_checkpoint"]]
    if not found:
        known = dict.fromkeys(entry.family for entry in entries().values())
        raise ValueError(f"Unknown family {family!r}; expected one of {', '.join(known)}.")
    return found


def convert_all(
    chosen: Iterable[ZooEntry],
    folder: str | Path,
    *,
    overwrite: bool = False,
    push_to_hub: str | None = None,
    on_result: Callable[[EntryResult], None] | None = None,
    **options: Any,
) -> list[EntryResult]:
    """
    Convert published checkpoints, each into a folder of its own, and continue after a failure.

    It can be repeated: a repository that is there already is checked and not converted again.

    Args:
        chosen (`Iterable[ZooEntry]`): the checkpoints.
        folder (`str` or `Path`): folder of the repositories, which get the names `entry.repository`.
        overwrite (`bool`, *optional*, defaults to `False`): whether to replace repositories that fail the check. They
            count as failures otherwise.
        push_to_hub (`str`, *optional*): user or organization on the Hub to upload each repository to, by its name;
            those that were finished before as well.
        on_result (`Callable`, *optional*): called with each result as soon as it is there.
        options: options of [`convert_entry`].

    Returns:
        `list[EntryResult]`: One result per checkpoint, in the given order.

    Raises:
        ValueError: If `push_to_hub` is not the name of a user or an organization.
    """
    chosen, results = list(chosen), []
    for entry in chosen if push_to_hub is not None else ():
        check_target(f"{push_to_hub}/{entry.repository}")
    for entry in chosen:
        output, start = Path(folder).expanduser() / entry.repository, time.perf_counter()
        status, message, report = "converted", None, None
        target = None if push_to_hub is None else f"{push_to_hub}/{entry.repository}"
        try:
            if _is_finished(output, entry, overwrite):
                status = "finished"
                if target is not None:  # its upload may have failed; what the Hub has is not sent again
                    publish_conversion(output, target)
            else:
                report = convert_entry(entry, output, overwrite=overwrite, push_to_hub=target, **options)
        except Exception as error:  # whatever is wrong with one checkpoint, the others are independent of it
            expected = isinstance(error, OSError | ValueError) and str(error)
            status, message = "failed", str(error) if expected else f"{type(error).__name__}: {error}"
            if not expected:
                _logger.warning("The conversion of %s failed", entry.name, exc_info=True)
        results.append(EntryResult(entry, output, status, time.perf_counter() - start, message, report))
        if on_result is not None:
            on_result(results[-1])
    return results


def _is_finished(output: Path, entry: ZooEntry, overwrite: bool) -> bool:
    if not output.is_dir() or not any(output.iterdir()):
        return False
    try:
        check_repository(output, entry)
    except (OSError, ValueError):
        if overwrite:
            return False
        raise
    return True


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def as_table(results: Iterable[EntryResult]) -> str:
    """Return a table of results as text: name, status, seconds, gigabytes, and the first line of an error."""
    rows = [("checkpoint", "status", "s", "GB", "")]
    for result in results:
        first = (result.message or "").strip().splitlines()
        numbers = (f"{result.seconds:.0f}", f"{_size_of(result.folder) / 1e9:.2f}")
        rows.append((result.entry.name, result.status, *numbers, first[0] if first else ""))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for name, status, seconds, size, message in rows:
        cells = (name.ljust(widths[0]), status.ljust(widths[1]), seconds.rjust(widths[2]), size.rjust(widths[3]))
        lines.append("  ".join((*cells, message)).rstrip())
    return "\n".join(lines)


__all__ = ["EntryResult", "as_table", "convert_all", "convert_entry", "entries_of", "repositories_of"]
