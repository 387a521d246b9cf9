# SPDX-License-Identifier: Apache-2.0
"""Model cards with the Hub's metadata, rendered from facts and a template."""

from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from modeling_lavis.hub import zoo
from modeling_lavis.hub.report import ConversionReport

TEMPLATE = zoo.FACTS_FOLDER / "template.md"
LIBRARY = "transformers"
_TASK_IDS = {
    "image-text retrieval": "image-text-retrieval",
    "video-text retrieval": "video-text-retrieval",
    "image captioning": "image-to-text",
    "visual question answering": "visual-question-answering",
    "zero-shot visual question answering": "visual-question-answering",
    "video question answering": "video-question-answering",
    "visual entailment": "visual-entailment",
    "image-pair classification": "image-pair-classification",
}


@cache
def common_facts() -> dict[str, Any]:
    """Return the facts that the checkpoints of a family or an architecture share."""
    return zoo.read_facts(zoo.FACTS_FOLDER / "common.yaml")


def family_name(architecture: str) -> str:
    """
    Return the family of an architecture: `"albef"`, `"alpro"`, `"blip"` or `"blip2"`.

    Raises:
        ValueError: If the name of the architecture does not start with that of a family.
    """
    name = architecture.partition("_")[0]
    if name not in common_facts()["families"]:
        raise ValueError(f"Unknown architecture {architecture!r}; its name must start with that of a family.")
    return name


def card_for_entry(
    entry: zoo.ZooEntry, repo: str, model_class: str, conversion: str = "", with_code: bool = False
) -> str:
    """
    Render the card of a published checkpoint.

    Args:
        entry (`ZooEntry`): the checkpoint.
        repo (`str`): Hub id or folder that the usage example loads.
        model_class (`str`): class that the repository loads into.
        conversion (`str`, *optional*, defaults to `""`): summary of the conversion in Markdown.
        with_code (`bool`, *optional*, defaults to `False`): whether the repository contains the code of the model.

    Returns:
        `str`: The text of `README.md`.
    """
    return _render(
        entry.architecture, entry.model_type, entry.facts, repo, model_class, conversion, True, with_code=with_code
    )


def card_for_conversion(
    report: ConversionReport, checkpoint: str, config: Any, repo: str | None = None, with_code: bool = False
) -> str:
    """
    Render the card of a converted repository.

    The published facts are used only if the checkpoint is the published one, by its URL or file name.

    Args:
        report (`ConversionReport`): the report of the conversion.
        checkpoint (`str`): path or URL of the checkpoint.
        config (`PreTrainedConfig`): configuration of the model.
        repo (`str`, *optional*, defaults to the name of the output folder): Hub id that the usage example loads.
        with_code (`bool`, *optional*, defaults to `False`): whether the repository contains the code of the model.

    Returns:
        `str`: The text of `README.md`.
    """
    repo = repo or report.output.name
    conversion = _conversion_text(report)
    if report.model_type is not None:
        entry = zoo.get(report.architecture, report.model_type)
        facts_apply = report.architecture == report.source_architecture or not entry.facts["own_checkpoint"]
        if facts_apply and zoo.is_published_file(entry, checkpoint):
            return card_for_entry(entry, repo, report.model_class, conversion, with_code)
    facts: dict[str, Any] = {
        "title": f"{report.model_class}, converted from {Path(checkpoint).name}",
        "source": Path(checkpoint).name,
        "image_size": config.vision_config.image_size,
        "licence": {"id": "unknown", "note": "That of the converted checkpoint, which its owner has to state."},
    }
    return _render(
        report.architecture, report.model_type, facts, repo, report.model_class, conversion, False, with_code=with_code
    )


def _render(
    architecture: str,
    model_type: str | None,
    facts: Mapping[str, Any],
    repo: str,
    model_class: str,
    conversion: str,
    is_published: bool,
    with_code: bool,
) -> str:
    common = common_facts()
    family = common["families"][family_name(architecture)]
    about = common["architectures"][architecture]
    scores = [{**score, "origin": common["origins"][score["origin"]]} for score in facts.get("scores", ())]
    card = ModelCard.from_template(
        _metadata(facts, about, family_name(architecture), architecture, scores),
        template_path=str(TEMPLATE),
        architecture=architecture,
        model_type=model_type,
        model_class=model_class,
        title=facts["title"],
        is_published=is_published,
        source=facts["source"],
        source_name=str(facts["source"]).rpartition("/")[2],
        starts_from=facts.get("starts_from"),
        image_size=facts["image_size"],
        frames=facts.get("frames"),
        language_model=facts.get("language_model"),
        licence=_licence_text(facts["licence"]),
        repo=repo,
        with_code=with_code,
        usage=(about.get("usage") or "").replace("{repo}", repo),
        training_data=facts.get("training_data"),
        recipe=facts.get("recipe"),
        scores=scores,
        limits=[*facts.get("limits", ()), *common["limits"]],
        conversion=conversion,
        paper=family["paper"],
        arxiv=family["arxiv"],
        code=family["code"],
        citation=family["citation"],
        lavis_code=common["lavis"]["code"],
        lavis_citation=common["lavis"]["citation"],
    )
    return str(card.content)


def _metadata(
    facts: Mapping[str, Any],
    about: Mapping[str, Any],
    family: str,
    architecture: str,
    scores: list[dict[str, Any]],
) -> ModelCardData:
    licence = facts["licence"]
    results = [
        EvalResult(
            task_type=_TASK_IDS[score["task"]],
            task_name=score["task"],
            dataset_type=score["dataset"].lower().replace(" ", "-"),
            dataset_name=score["dataset"],
            dataset_split=score["split"],
            metric_type=name.lower().replace(" ", "-"),
            metric_name=name,
            metric_value=value,
            source_name=score["origin"]["name"],
            source_url=score["origin"]["url"],
        )
        for score in scores
        for name, value in score["metrics"].items()
    ]
    return ModelCardData(
        language="en",
        license=licence["id"],
        license_name=licence.get("name"),
        license_link=licence.get("link"),
        library_name=LIBRARY,
        pipeline_tag=about["pipeline_tag"],
        tags=["modeling_lavis", "lavis", family, architecture.replace("_", "-"), *about["tags"]],
        base_model=facts.get("base_model"),
        model_name=facts["title"] if results else None,
        eval_results=results or None,
    )


def _licence_text(licence: Mapping[str, Any]) -> str:
    name = licence.get("name") or licence["id"]
    text = f"[{name}]({licence['link']})" if licence.get("link") else name
    return f"{text}. {licence['note']}" if licence.get("note") else text


def _conversion_text(report: ConversionReport) -> str:
    """Summarize the report in a few lines of Markdown."""
    sources = len(set(report.used.values()))
    lines = [f"{sources} weights of the checkpoint are used, for {len(report.used)} weights of the model."]
    if report.source_architecture != report.architecture:
        lines.append(f"The model is initialized from a `{report.source_architecture}` checkpoint.")
    if any(how.startswith("new ") for how in report.initialised.values()):
        lines.append("Some weights are new and untrained (see below). Fine-tune the model before use.")
    resized = [f"`{name}` {before} to {after}" for name, (before, after) in report.resized.items()]
    if resized:
        lines.append(f"Resized position embeddings: {', '.join(resized)}.")
    if report.not_finite:
        named = ", ".join(f"`{name}`" for name in report.not_finite[:5])
        lines.append(f"{len(report.not_finite)} weights contain NaN or infinite values, among them {named}.")
    for title, entries in (("Dropped", report.dropped), ("Initialized", report.initialised)):
        counts = Counter(entries.values())
        lines += [f"- {title}: {count} ({reason})" for reason, count in counts.items()]
    return "\n".join(lines[:1] + [""] + lines[1:]) if len(lines) > 1 else lines[0]
