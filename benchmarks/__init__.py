# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of this project and its peers. Run as `python -m benchmarks WORKLOAD --peer ...`."""
