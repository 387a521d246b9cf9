"""Processes of distributed training, for `test_distributed`: one launcher imports everything, then forks them.

Every process runs all scenarios of its number of processes and saves what it found. Shapes: B rows of a process.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel

from modeling_lavis.models import task_retrieval
from modeling_lavis.models.distributed import (
    exchange_numbers,
    first_row,
    gather,
    gather_ragged,
    gather_with_grad,
    rank,
    world_size,
)
from modeling_lavis.models.losses import MaskDraws
from tests.models import albef_cases, alpro_cases, lavis_blip_2_cases, lavis_blip_cases
from tests.models.contract import Case

CASES: dict[str, Case] = {
    case.name: case
    for module in (albef_cases, lavis_blip_cases, lavis_blip_2_cases, alpro_cases)
    for case in module.CASES
}
#: parts of the loss that one process computes from the rows of all; the others are means over the processes, each of
#: which contrasts or matches its own rows (parity: so do the originals)
WHOLE_ITC, WHOLE_ITM = frozenset({"loss_itc", "loss_vtc"}), frozenset({"loss_itm", "loss_vtm"})
#: label -> class, options of the configuration, parts of the loss over all rows
RUNS: dict[str, tuple[str, dict[str, Any], frozenset[str]]] = {
    "ALBEF retrieval": ("AlbefForImageTextRetrieval", {}, frozenset()),
    "ALBEF without momentum": ("AlbefForImageTextRetrieval", {"use_momentum": False}, WHOLE_ITC),
    "ALBEF pretraining": ("AlbefForPreTraining", {}, frozenset()),
    "BLIP retrieval": ("LavisBlipForImageTextRetrieval", {"negative_all_rank": True}, WHOLE_ITM),
    "BLIP, local negatives": ("LavisBlipForImageTextRetrieval", {"negative_all_rank": False}, frozenset()),
    "BLIP without momentum": (
        "LavisBlipForImageTextRetrieval",
        {"negative_all_rank": True, "use_momentum": False},
        WHOLE_ITC | WHOLE_ITM,
    ),
    "BLIP pretraining": ("LavisBlipForPreTraining", {}, frozenset()),
    "BLIP-2 stage 1": ("LavisBlip2ForPreTraining", {}, WHOLE_ITC | WHOLE_ITM),
    "BLIP-2 stage 1, 1.0.2": ("LavisBlip2ForPreTraining", {"objective": "1.0.2"}, WHOLE_ITC | WHOLE_ITM),
    "BLIP-2 retrieval": ("LavisBlip2ForImageTextRetrieval", {}, WHOLE_ITC | WHOLE_ITM),
    "ALPRO": ("AlproForVideoTextRetrieval", {}, WHOLE_ITC),
}
EQUAL = {2: (2, 2), 4: (2, 2, 2, 2)}
#: label -> rows of each process; every process has two rows where negatives are local
UNEVEN = {
    2: {
        "ALBEF retrieval": (3, 2),
        "ALBEF pretraining": (2, 3),
        "BLIP retrieval": (4, 1),
        "BLIP pretraining": (3, 2),
        "BLIP-2 stage 1": (1, 3),
        "ALPRO": (3, 2),
    },
    4: {
        "ALBEF retrieval": (3, 2, 2, 4),
        "BLIP retrieval": (1, 3, 2, 1),
        "BLIP-2 stage 1": (2, 1, 3, 1),
        "ALPRO": (2, 3, 2, 4),
    },
}
#: label -> class, rows of each process, ids of all images (`None`: given by the first process only)
REFUSED: dict[str, tuple[str, tuple[int, int], list[int] | None]] = {
    "one row": ("AlbefForImageTextRetrieval", (3, 1), [0, 1, 2, 3]),
    "one row in pretraining": ("LavisBlipForPreTraining", (1, 3), [0, 1, 2, 3]),
    "one image": ("AlproForVideoTextRetrieval", (2, 2), [0, 1, 5, 5]),
    "one image everywhere": ("LavisBlip2ForPreTraining", (2, 2), [5, 5, 5, 5]),
    "ids in one process": ("LavisBlip2ForPreTraining", (2, 2), None),
}


def argmax_negatives(weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Deterministic replacement of `draw_negatives`."""
    return weights.argmax(dim=1)


def masks(self: Any, input_ids: Tensor, generator: torch.Generator | None = None) -> MaskDraws:
    """Deterministic replacement of `draw_masks`: two tokens of every row, one masked and one replaced."""
    draws = [torch.zeros_like(input_ids, dtype=torch.bool) for _ in range(3)]
    draws[0][:, 1:3], draws[1][:, 1], draws[2][:, 2] = True, True, True
    return MaskDraws(*draws, random_ids=torch.full_like(input_ids, 7))


@contextmanager
def deterministic() -> Iterator[None]:
    """Negatives and masks without chance."""
    albef = CASES["AlbefForPreTraining"].model_class
    with mock.patch.object(task_retrieval, "draw_negatives", argmax_negatives):
        with mock.patch.object(albef, "draw_masks", masks):
            yield


def batch(case: Case, step: int, counts: Sequence[int]) -> list[dict[str, Any]]:
    """The batch of each process. Texts have the same length, so that means over tokens are means over rows."""
    total = sum(counts)
    generator = torch.Generator().manual_seed(100 + step)
    call = {**case.inputs(total, padded=False), **case.training(total)}
    call[case.pixel_name] = torch.randn(call[case.pixel_name].shape, generator=generator, dtype=torch.float64)
    # the images of the first step come again in the second, when their features are in the queue
    call["image_ids"] = torch.arange(total)
    parts = []
    for number, count in enumerate(counts):
        rows = slice(sum(counts[:number]), sum(counts[:number]) + count)
        parts.append({key: value[rows] if torch.is_tensor(value) else value for key, value in call.items()})
    return parts


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def losses_of(output: Any) -> dict[str, Tensor]:
    return {key: value for key, value in output.items() if key.startswith("loss") and key != "loss"}


def results_of(
    model: nn.Module, losses: Sequence[dict[str, Tensor]], gradients: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Losses of each step, gradients of the first, and the final state."""
    found = {f"{step}.{key}": value for step, values in enumerate(losses) for key, value in values.items()}
    found.update({f"grad.{key}": value for key, value in gradients.items()})
    found.update({f"state.{key}": value for key, value in model.state_dict().items()})
    return {key: value.detach().clone() for key, value in found.items()}


class CountRows:
    """Counts what passes through the key and value layers of cross-attention, and the images that are used."""

    def __init__(self, model: nn.Module, counts: Sequence[int]) -> None:
        self.counts = tuple(counts)
        self.projected, self.used, self.is_counting = 0, 0, True
        for name, module in model.named_modules():
            if "crossattention" in name and name.rsplit(".", 1)[-1] in ("key", "value"):
                module.register_forward_pre_hook(self._count)

    def _count(self, module: nn.Module, inputs: Any) -> None:
        if self.is_counting:
            self.projected = max(self.projected, inputs[0].shape[0])

    def images(self, weights: Tensor, generator: Any = None) -> Tensor:
        """Replacement of `draw_negatives`, which draws images first, then texts."""
        drawn = argmax_negatives(weights)
        if not self.used:
            own = torch.arange(len(weights)) + (first_row(self.counts) if weights.shape[1] > len(weights) else 0)
            self.used = len(torch.cat([own, drawn]).unique())
        return drawn


def train_ddp(label: str, counts: Sequence[int]) -> dict[str, Any]:
    """Two steps of plain DDP. The loss of a process counts as many times as it has rows."""
    name, options, _ = RUNS[label]
    case = CASES[name]
    model = case.model(**options).double().train()
    rows = CountRows(model, counts)
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(trained(model), lr=0.05)
    share = counts[rank()] * len(counts) / sum(counts)
    losses, gradients = [], {}
    for step in range(2):
        with mock.patch.object(task_retrieval, "draw_negatives", rows.images if step == 0 else argmax_negatives):
            output = wrapped(**batch(case, step, counts)[rank()])
        rows.is_counting = False  # the first step only
        optimizer.zero_grad()
        (output.loss * share).backward()
        gradients = gradients or {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        losses.append(losses_of(output))
    found: dict[str, Any] = results_of(model, losses, gradients)
    return {**found, "projected": rows.projected, "used": rows.used}


def joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One batch of the rows of all processes."""
    return {
        key: torch.cat([part[key] for part in parts]) if torch.is_tensor(value) else value
        for key, value in parts[0].items()
    }


def losses_alone(model: Any, parts: Sequence[dict[str, Any]], whole_parts: frozenset[str]) -> dict[str, Tensor]:
    """
    What the parts of the loss are by definition, in one process: over all rows, or the mean over the processes' own.

    Queue and momentum encoders stay as they are.
    """
    still = {} if type(model).__name__.startswith("LavisBlip2") else {"update_state": False}
    counts = [len(part["input_ids"]) for part in parts]
    whole = losses_of(model(**joined(parts), **still)) if whole_parts else {}
    local = {}
    if len(whole) == 0 or set(whole) - whole_parts:
        with mock.patch.object(task_retrieval, "require_negatives"):  # a single row has none within its process
            outputs = [losses_of(model(**part, **still)) for part in parts]
        shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
        local = {key: sum(w * o[key] for w, o in zip(shares, outputs, strict=True)) for key in outputs[0]}
    return {key: whole[key] if key in whole_parts else local[key] for key in whole or local}


@torch.no_grad()
def enqueue_alone(model: Any, case: Case, parts: Sequence[dict[str, Any]]) -> None:
    """Fill the queue of a head that has one, as the rows of the processes come one after the other."""
    if hasattr(model, "queue_ptr"):
        everything = joined(parts)
        pairs = model.encode_pairs(
            *(everything[key] for key in (case.pixel_name, "input_ids", "attention_mask", "image_ids")), False
        )
        model._update_queue(pairs.momentum_features, pairs)


def train_alone(label: str, counts: Sequence[int]) -> dict[str, Tensor]:
    """What DDP has to give, in one process; queue and momentum encoders follow after the step."""
    name, options, whole_parts = RUNS[label]
    case = CASES[name]
    model: Any = case.model(**options).double().train()
    optimizer = torch.optim.SGD(trained(model), lr=0.05)
    losses, gradients = [], {}
    for step in range(2):
        parts = batch(case, step, counts)
        if hasattr(model, "temp"):
            model.clamp_temperature()
        found = losses_alone(model, parts, whole_parts)
        optimizer.zero_grad()
        sum(found.values()).backward()  # type: ignore[union-attr]
        gradients = gradients or {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
        enqueue_alone(model, case, parts)
        model.update_is_due = False
        optimizer.step()
        model.update_is_due = False
        model.finish_step()
        losses.append(found)
    return results_of(model, losses, gradients)


def gathering() -> dict[str, Any]:
    """Results of the gather functions with different numbers of rows, and the gradient through `gather_with_grad`."""
    count = rank() + 1
    facts = exchange_numbers(count, 7 * rank(), device=torch.device("cpu"))
    counts = tuple(row[0] for row in facts)
    own = (torch.arange(2.0 * count).view(count, 2) + 10 * rank()).requires_grad_()
    everything = gather_with_grad(own, counts)
    weights = torch.arange(2.0 * sum(counts)).view(-1, 2) * (rank() + 1)
    (everything * weights).sum().backward()
    return {
        "world": world_size(),
        "facts": facts,
        "first": first_row(counts),
        "all": everything.detach(),
        "grad": own.grad,
        "plain": gather(own.detach(), counts),
        "ragged": gather_ragged(torch.full((count, 3 + rank()), 1 + rank()), counts, fill=9),
    }


def refused(label: str) -> str:
    """The error of a batch that one process cannot train on; the other process gets one, too."""
    name, counts, ids = REFUSED[label]
    case = CASES[name]
    call = batch(case, 0, counts)[rank()]
    call[case.pixel_name] = call[case.pixel_name].float()
    if ids is None:
        call["image_ids"] = call["image_ids"] if rank() == 0 else None
    else:
        call["image_ids"] = torch.tensor(ids).split(list(counts))[rank()]
    model = case.model().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        DistributedDataParallel(model)(**call)
    except ValueError as error:
        unchanged = all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        return f"{error} unchanged={unchanged}"
    return "no error"


def under_fsdp1(name: str) -> str:
    """The error of the first step under FSDP1, which flattens parameters."""
    case = CASES[name]
    model = FullyShardedDataParallel(case.model().train(), use_orig_params=True, device_id=torch.device("cpu"))
    try:
        model(**case.inputs(3), **case.training(3))
    except ValueError as error:
        return str(error)
    return "no error"


def scenarios(processes: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Names of the results, and functions that return them."""
    yield "gathering", gathering
    for label in RUNS:
        yield f"equal: {label}", lambda label=label: train_ddp(label, EQUAL[processes])  # type: ignore[misc]
    for label, counts in UNEVEN[processes].items():
        yield f"uneven: {label}", lambda label=label, counts=counts: train_ddp(label, counts)  # type: ignore[misc]
    for name in ("AlbefForImageTextRetrieval", "AlproForVideoTextRetrieval") if processes == 2 else ():
        yield f"FSDP1: {name}", lambda name=name: under_fsdp1(name)  # type: ignore[misc]
    for label in REFUSED if processes == 2 else ():
        yield f"refused: {label}", lambda label=label: refused(label)  # type: ignore[misc]


def run(number: int, processes: int, folder: str) -> None:
    """One process: all scenarios, saved to `{folder}/{number}.pt`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=processes)
    with deterministic():
        results = {name: scenario() for name, scenario in scenarios(processes)}
    torch.save(results, f"{folder}/{number}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    # `distributed_worker PROCESSES FOLDER`; forked, so that the packages are imported once
    mp.start_processes(run, (int(sys.argv[1]), sys.argv[2]), nprocs=int(sys.argv[1]), start_method="fork")
