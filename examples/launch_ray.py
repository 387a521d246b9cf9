"""Train by a recipe on the processes of a Ray cluster (Ray Train), one per GPU.

    python examples/launch_ray.py blip-retrieval-coco --train-data /data/coco --output /shared/run --workers 16

Data and output have to be on paths that all nodes see. The cluster is found by RAY_ADDRESS, or started on this machine.
A worker that fails restarts all of them at the last checkpoint; so does running the command again.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, report
from ray.train.torch import TorchConfig, TorchTrainer

from modeling_lavis.training.run import train


def train_loop(config: dict[str, Any]) -> None:
    """What every process runs. Ray has made the process group, and set what torchrun sets."""
    result = train(**config)
    report({name: value for name, value in result.metrics.items() if isinstance(value, float)})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="name or file of a recipe")
    parser.add_argument("--model", help="folder or Hub id (what the recipe starts from)")
    parser.add_argument("--train-data", required=True)
    parser.add_argument("--eval-data")
    parser.add_argument("--media-root")
    parser.add_argument("--output", required=True, help="folder of the run")
    parser.add_argument("--workers", type=int, default=8, help="number of processes")
    parser.add_argument("--max-steps", type=int, help="fewer steps than the recipe")
    parser.add_argument("--cpu", action="store_true", help="one CPU per process instead of one GPU")
    parser.add_argument("--failures", type=int, default=2, help="how often workers may fail")
    options = parser.parse_args(arguments)

    config: dict[str, Any] = {
        "recipe": options.recipe,
        "model": options.model,
        "train_data": options.train_data,
        "eval_data": options.eval_data,
        "media_root": options.media_root,
        "output_dir": options.output,
        "resume": True,  # from the last whole checkpoint of the folder, if there is one
        "use_cpu": options.cpu,
    }
    if options.max_steps:
        config["max_steps"] = options.max_steps
    trainer = TorchTrainer(
        train_loop,
        train_loop_config=config,
        torch_config=TorchConfig(backend="gloo" if options.cpu else "nccl"),
        scaling_config=ScalingConfig(num_workers=options.workers, use_gpu=not options.cpu),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=options.failures)),
    )
    result = trainer.fit()
    print(f"saved in {options.output}: {result.metrics}")
    ray.shutdown()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
