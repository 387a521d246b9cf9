# SPDX-License-Identifier: Apache-2.0
"""Jobs over collections: captions, answers, matches and features of more images or videos than one call should take.

* `api`: the functions. `functions`: the same for `datasets.Dataset.map` and `ray.data`.
* `opening`, `sources`, `columns`: what a user's data are, and their items, in blocks.
* `items`: items, blocks, parts of a collection. `media`: opening images and videos.
* `tasks`, `work`: what is computed, and the worker that computes it.
* `sinks`, `shards`: forms of output.
* `filtering`, `caption_filter`, `selection`: captions and a filter that removes texts that do not match.
* `merging`: the outputs of the parts of a job as one.
* `ray_engine`: blocks that the workers of a cluster compute.
* `journal`, `runner`, `identity`, `progress`: each item exactly once, whatever happens.
"""

from modeling_lavis.jobs.api import JobError, JobOptions, Summary, answer, caption, embed, match
from modeling_lavis.jobs.filtering import CapFiltSummary, capfilt
from modeling_lavis.jobs.functions import RowFunction
from modeling_lavis.jobs.merging import merge_shards

__all__ = [
    "CapFiltSummary",
    "JobError",
    "JobOptions",
    "RowFunction",
    "Summary",
    "answer",
    "capfilt",
    "caption",
    "embed",
    "match",
    "merge_shards",
]
