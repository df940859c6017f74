"""Parity references: tiny random checkpoints that Hugging Face transformers evaluated.

Nothing here knows about MLX: the tests read only the files this package writes.
"""
