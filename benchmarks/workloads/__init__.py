# SPDX-License-Identifier: Apache-2.0
"""Workloads by name. Each file defines a `WORKLOAD`, which is listed here."""

from benchmarks.workloads import (
    blip2_generate,
    caption,
    collection,
    qformer_matching,
    retrieval,
    train_overhead,
    train_retrieval,
    video,
    vqa_rank,
)
from benchmarks.workloads.base import OURS, Workload

_ALL = (
    blip2_generate.WORKLOAD,
    caption.WORKLOAD,
    caption.LATENCY,
    collection.WORKLOAD,
    collection.DRAFT,
    qformer_matching.WORKLOAD,
    retrieval.WORKLOAD,
    retrieval.RERANK,
    train_overhead.WORKLOAD,
    train_retrieval.WORKLOAD,
    train_retrieval.THROUGH_TRAINER,
    video.WORKLOAD,
    vqa_rank.WORKLOAD,
)
WORKLOADS: dict[str, Workload] = {workload.name: workload for workload in _ALL}

__all__ = ["OURS", "WORKLOADS", "Workload"]
