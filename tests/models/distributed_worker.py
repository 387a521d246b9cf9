"""One of two processes of distributed training; `test_distributed` starts them."""

import sys

import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from modeling_lavis.models import task_retrieval
from modeling_lavis.models.distributed import gather, gather_ragged, gather_with_grad, rank, world_size
from tests.models import alpro_cases, lavis_blip_cases

CASES = (*lavis_blip_cases.CASES, *alpro_cases.CASES)


def argmax_negatives(weights: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Deterministic replacement of `draw_negatives`."""
    return weights.argmax(dim=1)


def gather_results() -> dict[str, torch.Tensor]:
    """Results of the gather functions, and the gradient through `gather_with_grad`."""
    own = torch.arange(4.0).view(2, 2) + 10 * rank()
    own.requires_grad_()
    everything = gather_with_grad(own)
    weights = torch.arange(8.0).view(4, 2) * (rank() + 1)
    (everything * weights).sum().backward()
    ragged = gather_ragged(torch.full((2, 3 + rank()), 1 + rank()), fill=9)
    return {"all": everything.detach(), "grad": own.grad, "plain": gather(own.detach()), "ragged": ragged}


def train_two_steps(
    name: str, options: dict, rows: slice, ddp: bool, loss_name: str = "loss"
) -> dict[str, torch.Tensor]:
    """Losses and final state of two training steps on some rows of a batch of four."""
    case = next(case for case in CASES if case.name == name)
    model = case.model(**options).train()
    wrapped = DistributedDataParallel(model, find_unused_parameters=True, broadcast_buffers=False) if ddp else model
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    found: dict[str, torch.Tensor] = {}
    for step in range(2):
        torch.manual_seed(step)
        call = {**case.inputs(4), **case.training(4)}
        call[case.pixel_name] = torch.randn_like(call[case.pixel_name])
        call["image_ids"] = torch.tensor([3, 4, 5, 6]) + step
        call = {key: value[rows] if torch.is_tensor(value) else value for key, value in call.items()}
        output = wrapped(**call)
        optimizer.zero_grad()
        output[loss_name].backward()
        optimizer.step()
        for key, value in output.items():
            if key.startswith("loss"):
                found[f"{step}.{key}"] = value.detach()
    found.update({f"state.{key}": value for key, value in model.state_dict().items()})
    return found


def main() -> None:
    """`distributed_worker RANK STORE OUTPUT`: run all checks and save their results."""
    number, store, output = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=2)
    task_retrieval.draw_negatives = argmax_negatives
    results: dict[str, object] = {"world": world_size(), "gathering": gather_results()}
    for label, name, options in RUNS:
        results[label] = train_two_steps(name, options, slice(2 * number, 2 * number + 2), ddp=True)
    # ALPRO draws negatives from the local batch, so only its contrastive loss equals the one of the whole batch.
    rows = slice(2 * number, 2 * number + 2)
    results["video"] = train_two_steps("AlproForVideoTextRetrieval", {}, rows, ddp=True, loss_name="loss_vtc")
    torch.save(results, f"{output}.{number}")
    dist.destroy_process_group()


RUNS = (
    ("retrieval", "LavisBlipForImageTextRetrieval", {"negative_all_rank": True}),
    ("local negatives", "LavisBlipForImageTextRetrieval", {"negative_all_rank": False}),
    ("no momentum", "LavisBlipForImageTextRetrieval", {"negative_all_rank": True, "use_momentum": False}),
    ("pretraining", "LavisBlipForPreTraining", {}),
)

if __name__ == "__main__":
    main()
