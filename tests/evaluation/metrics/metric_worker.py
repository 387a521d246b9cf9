"""One of several processes that add examples to a metric: metric_worker.py RANK PROCESSES CACHE."""

from __future__ import annotations

import json
import sys

from modeling_lavis.evaluation.metrics import load_metric


def main(rank: int, processes: int, cache: str) -> None:
    metric = load_metric(
        "vqa_accuracy", "types", num_process=processes, process_id=rank, experiment_id="test", cache_dir=cache
    )
    for number in range(rank, 6, processes):
        metric.add_batch(
            predictions=["two" if number % 2 else "dog"],
            references=[["2"] * 3 + ["cat"] * 7],
            question_types=["how many" if number % 2 else "what"],
            answer_types=["other"],
        )
    print(json.dumps(metric.compute()))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
