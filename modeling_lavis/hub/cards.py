# SPDX-License-Identifier: Apache-2.0
"""Model cards of published and converted checkpoints, from facts, a template and the report of the conversion."""

from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from modeling_lavis.hub import zoo
from modeling_lavis.hub.report import ConversionReport
from modeling_lavis.model_card import code_span, escaped, fenced, one_line, render_card, string_literal, table

TEMPLATE = zoo.FACTS_FOLDER / "template.md"
LIBRARY = "transformers"
#: entry of the metadata that names the published checkpoint that the weights are
CHECKPOINT_ENTRY = "lavis_checkpoint"
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
#: tasks whose widget on the Hub takes an image, and whether it also takes a question
_WIDGETS = {"image-to-text": False, "visual-question-answering": True}


@cache
def common_facts() -> dict[str, Any]:
    """Return the facts that the checkpoints of a family or an architecture share."""
    return zoo.read_facts(zoo.FACTS_FOLDER / "common.yaml")


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
        entry.architecture, entry.model_type, entry.facts, repo, model_class, conversion, entry, with_code=with_code
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
    name = Path(checkpoint).name
    facts: dict[str, Any] = {
        "title": f"{report.model_class}, converted from {name}",
        "source": name,
        "image_size": config.vision_config.image_size,
        "licence": {"id": "unknown", "note": "That of the converted checkpoint, which its owner has to state."},
    }
    return _render(
        report.architecture, report.model_type, facts, repo, report.model_class, conversion, None, with_code=with_code
    )


def _render(
    architecture: str,
    model_type: str | None,
    facts: Mapping[str, Any],
    repo: str,
    model_class: str,
    conversion: str,
    entry: zoo.ZooEntry | None,
    with_code: bool,
) -> str:
    common = common_facts()
    family = common["families"][zoo.family_name(architecture)]
    about = common["architectures"][architecture]
    scores = [{**score, "origin": common["origins"][score["origin"]]} for score in facts.get("scores", ())]
    image, outputs = _stated_outputs(entry)
    source_name = one_line(str(facts["source"]).rpartition("/")[2])
    values = {
        "architecture": architecture,
        "model_type": model_type,
        "model_class": model_class,
        "title": facts["title"] if entry else escaped(facts["title"]),
        "is_published": entry is not None,
        "checkpoint": entry.name if entry else None,
        "source": facts["source"] if entry else None,
        "source_name": source_name if entry else code_span(source_name),
        "starts_from": facts.get("starts_from"),
        "image_size": facts["image_size"],
        "frames": facts.get("frames"),
        "parameters": facts.get("parameters"),
        "language_model": facts.get("language_model"),
        "licence": _licence_text(facts["licence"]),
        "with_code": with_code,
        "install": f'"modeling-lavis[{about["install"]}]"' if "install" in about else "modeling-lavis",
        "training_data": facts.get("training_data"),
        "recipe": facts.get("recipe"),
        "scores": scores,
        "image": image,
        "limits": [*facts.get("limits", ()), *common["limits"]],
        "paper": family["paper"],
        "arxiv": family["arxiv"],
        "code": family["code"],
        "lavis_code": common["lavis"]["code"],
    }
    blocks = {
        "repo_literal": string_literal(repo),
        "usage": fenced(about["usage"].replace('"{repo}"', string_literal(repo))),
        "outputs": outputs,
        "conversion": conversion,
        "citation": fenced(family["citation"]),
        "lavis_citation": fenced(common["lavis"]["citation"]),
    }
    data = _metadata(facts, about, zoo.family_name(architecture), architecture, scores, entry, image)
    return render_card(data, TEMPLATE.read_text(encoding="utf-8"), values, blocks)


def _metadata(
    facts: Mapping[str, Any],
    about: Mapping[str, Any],
    family: str,
    architecture: str,
    scores: list[dict[str, Any]],
    entry: zoo.ZooEntry | None,
    image: Mapping[str, Any] | None,
) -> ModelCardData:
    licence = facts["licence"]
    further: dict[str, Any] = {}
    if entry is not None:
        further[CHECKPOINT_ENTRY] = entry.name
    if image is not None and about["pipeline_tag"] in _WIDGETS:
        asks = {"text": "Which city is this photo taken?"} if _WIDGETS[about["pipeline_tag"]] else {}
        further["widget"] = [{"src": image["url"], "example_title": image["name"], **asks}]
    return ModelCardData(
        language="en",
        license=licence["id"],
        license_name=licence.get("name"),
        license_link=licence.get("link"),
        library_name=LIBRARY,
        pipeline_tag=about["pipeline_tag"],
        tags=["modeling_lavis", "lavis", family, architecture.replace("_", "-"), *about["tags"]],
        base_model=facts.get("base_model"),
        model_name=facts["title"] if scores else None,
        eval_results=_eval_results(scores) or None,
        **further,
    )


def _eval_results(scores: list[dict[str, Any]]) -> list[EvalResult]:
    """Scores in the form of the Hub's model-index."""
    datasets = common_facts()["datasets"]
    return [
        EvalResult(
            task_type=_TASK_IDS[score["task"]],
            task_name=score["task"],
            dataset_type=datasets[score["dataset"]]["id"],
            dataset_name=score["dataset"],
            dataset_config=datasets[score["dataset"]].get("config"),
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


def _stated_outputs(entry: zoo.ZooEntry | None) -> tuple[Mapping[str, Any] | None, str]:
    """The image that LAVIS states outputs for, and a table of them; `None` and `""` without any."""
    from modeling_lavis.hub.outputs import published_images, published_outputs

    outputs = [] if entry is None else published_outputs(entry)
    if not outputs or outputs[0].image is None:
        return None, ""
    rows = [
        (
            escaped(output.title),
            ", ".join(
                code_span(value) if isinstance(value, str) else f"{escaped(name)} {value:g}"
                for name, value in output.expected.items()
            ),
            f"[{output.origin['name']}]({output.origin['url']})",
        )
        for output in outputs
    ]
    return published_images()[outputs[0].image], table(("Output", "Value", "Source"), rows)


def _licence_text(licence: Mapping[str, Any]) -> str:
    name = licence.get("name") or licence["id"]
    text = f"[{name}]({licence['link']})" if licence.get("link") else name
    return f"{text}. {licence['note']}" if licence.get("note") else text


def _conversion_text(report: ConversionReport) -> str:
    """Summarize the report in a few lines of Markdown."""
    import transformers

    import modeling_lavis

    sources, targets = len(set(report.used.values())), len(report.used) + len(report.initialised)
    lines = [
        f"{sources} weights of the checkpoint are used, for {len(report.used)} of the {targets} weights of the model."
        " Every weight of the checkpoint is used or dropped for a stated reason, and every weight of the model is"
        " filled or initialized in a stated way; otherwise the conversion fails.",
        "",
    ]
    if report.source_architecture != report.architecture:
        lines.append(f"The model is initialized from a `{report.source_architecture}` checkpoint.")
    if any(how.startswith("new ") for how in report.initialised.values()):
        lines.append("Some weights are new and untrained (see below). Fine-tune the model before use.")
    resized = [f"{code_span(name)} {before} to {after}" for name, (before, after) in report.resized.items()]
    if resized:
        lines.append(f"Resized position embeddings: {', '.join(resized)}.")
    if report.not_finite:
        named = ", ".join(code_span(name) for name in report.not_finite[:5])
        lines.append(f"{len(report.not_finite)} weights contain NaN or infinite values, among them {named}.")
    lines.append("")
    for title, entries in (("Dropped", report.dropped), ("Initialized", report.initialised)):
        counts = Counter(entries.values())
        lines += [f"- {title}: {count} ({escaped(reason)})" for reason, count in counts.items()]
    source = report.source or {}  # of the file that was read, where it is known
    facts = {
        "Source": f"<{one_line(str(source['url']))}>" if source.get("url") else None,
        "Size": f"{source['size']:,} bytes" if isinstance(source.get("size"), int) else None,
        "SHA-256": code_span(str(source["sha256"])) if source.get("sha256") else None,
        "Converted with": f"modeling_lavis {modeling_lavis.__version__}, transformers {transformers.__version__}",
    }
    lines += [f"- {title}: {value}" for title, value in facts.items() if value]
    return "\n".join(line for number, line in enumerate(lines) if line or lines[number - 1])
