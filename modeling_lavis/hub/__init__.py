# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the original projects as Hub repositories: reading, converting, describing and publishing them.

`convert.convert` is the entry; `zoo` knows the published checkpoints; `cards` writes their model cards. A family
(BLIP, later ALBEF, ALPRO and BLIP-2) is one table of facts about its keys, see `families`.
"""
