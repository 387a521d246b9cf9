# SPDX-License-Identifier: Apache-2.0
"""The workloads by name. A new one is a file that defines `WORKLOAD`, and a line here."""

from benchmarks.workloads import caption, vqa_rank
from benchmarks.workloads.base import OURS, Workload

WORKLOADS: dict[str, Workload] = {module.WORKLOAD.name: module.WORKLOAD for module in (caption, vqa_rank)}

__all__ = ["OURS", "WORKLOADS", "Workload"]
