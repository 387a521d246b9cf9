# SPDX-License-Identifier: Apache-2.0
"""Evaluation: predictions and metrics for each task, two-stage retrieval.

* `tasks`: the evaluation of each task (`EVALUATIONS`, `evaluate`).
* `captioning`, `question_answering`, `classification`: rows to predictions and metrics.
* `prediction`: batches, workers, several processes. `results`: what is returned, and result files.
* `generating`: what captions and answers need for `generate`.
* `retrieval`: functions of two-stage retrieval. `engine`, `encoders`, `candidates`, `states`, `work_folder`: retrieval
  in collections of any size. `retrieval_rows`: recall from rows.
* `metrics`: metrics as functions and as modules of `evaluate`.
"""
