# SPDX-License-Identifier: Apache-2.0
"""The command `modeling-lavis`: one file per verb, which reads arguments, calls a pipeline and prints."""
