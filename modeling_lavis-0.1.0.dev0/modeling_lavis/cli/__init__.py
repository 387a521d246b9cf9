# SPDX-License-Identifier: Apache-2.0
"""The command `modeling-lavis`. Each verb is a file that parses arguments, calls a pipeline and prints its results."""
