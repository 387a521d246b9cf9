# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation data: loading, checks, mixtures, transforms and collators, for a `Trainer` or `DataLoader`.

* `columns`: the columns that the rows of each task have (`TASKS`).
* `loading`: rows from files, folders, shards, published annotation files and objects (`load_data`).
* `folders`, `records`, `rows`: what a folder holds, records of files, rows of records.
* `annotations`, `annotation_readers`: published data sets.
* `mixtures`: several data sets with sampling ratios (`mix`).
* `checks`: bad rows, found before training or skipped in it (`check_data`, `SkipBadRows`).
* `collation`: the collator and the training transform of a task and a processor (`make_collator`).
* `transforms`: training transforms of images (`blip_image_train`, `blip2_image_train`, `timm_image_train`).
* `video_transforms`: training transform of videos (`alpro_video_train`).
* `randaugment`: the augmentation that both use.
* `collators`: rows of a dataset to batches for the heads of ALBEF, BLIP and BLIP-2.
* `video_collators`: rows of a dataset to batches for the heads of ALPRO.

Evaluation transforms are part of the processors in `modeling_lavis.models`.
"""
