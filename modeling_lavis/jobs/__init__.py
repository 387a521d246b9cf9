# SPDX-License-Identifier: Apache-2.0
"""Jobs over collections: captions, answers, matches and features of more images or videos than one call should take.

The path of a command: `modeling_lavis.cli.jobs.run_job` calls `api.run`, which opens the model (`Worker`), the data
(`Source`), the output (`Sink`) and the folder of the job (`Journal`). `runner.run_job` then takes blocks of items from
`Source.blocks`, gets their results from `Worker.stream`, writes them by `Sink.write`, and notes each block by
`Journal.add`. At the end, `Sink.finish` puts the output in its place.

* `api`: the functions. `functions`: the same for `datasets.Dataset.map` and `ray.data`.
* `opening`, `sources`, `columns`: from the data that a user names to items, in blocks.
* `items`: items, blocks, parts of a collection. `media`: opening images and videos.
* `tasks`, `work`: what is computed, and the worker that computes it.
* `sinks`, `shards`: forms of output.
* `journal`, `runner`, `identity`, `progress`: each item is done exactly once, whatever happens.
* `filtering`, `caption_filter`, `selection`: captions and a filter that removes texts that do not match.
* `merging`: the outputs of the parts of a job as one.
* `ray_engine`: blocks that the workers of a cluster compute.
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
