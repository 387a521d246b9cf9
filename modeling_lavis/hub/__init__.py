# SPDX-License-Identifier: Apache-2.0
"""Conversion of the original projects' checkpoints to Hub repositories: read, convert, describe and upload.

`convert.convert` is the entry point, `zoo` lists the published checkpoints, `cards` writes their model cards, and
`verify.verify` compares a repository with what was published (`outputs`, `scores`) or recorded (`recordings`). Each
family (ALBEF, ALPRO, BLIP, BLIP-2) is described by one table of facts about its state dict keys; see `families`.
"""
