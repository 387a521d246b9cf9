# SPDX-License-Identifier: Apache-2.0
"""Evaluation: two-stage retrieval, and metrics."""
