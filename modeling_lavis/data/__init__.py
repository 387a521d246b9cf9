# SPDX-License-Identifier: Apache-2.0
"""Pictures and rows on their way into training: transforms, augmentation, collators."""
