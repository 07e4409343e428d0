"""Checkpoints of other code as models of ours, and back."""
