# SPDX-License-Identifier: Apache-2.0
"""Training data: transforms, augmentation and collators, for a plain `Trainer` or `DataLoader`.

* `transforms`: training transforms of images (`blip_image_train`, `blip2_image_train`, `timm_image_train`).
* `video_transforms`: training transform of videos (`alpro_video_train`).
* `randaugment`: the augmentation that both use.
* `collators`: rows of a dataset to batches for the heads of ALBEF, BLIP and BLIP-2.
* `video_collators`: rows of a dataset to batches for the heads of ALPRO.

Evaluation transforms are part of the processors in `modeling_lavis.models`.
"""
