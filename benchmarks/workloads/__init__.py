# SPDX-License-Identifier: Apache-2.0
"""The workloads by name. A new one is a file that defines `WORKLOAD`, and a line here."""

from benchmarks.workloads import caption, retrieval, train_retrieval, vqa_rank
from benchmarks.workloads.base import OURS, Workload

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        caption.WORKLOAD,
        retrieval.WORKLOAD,
        retrieval.RERANK,
        train_retrieval.WORKLOAD,
        vqa_rank.WORKLOAD,
    )
}

__all__ = ["OURS", "WORKLOADS", "Workload"]
