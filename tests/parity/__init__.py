"""Replays of the recorded outputs of the original implementation."""
