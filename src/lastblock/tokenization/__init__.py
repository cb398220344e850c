"""Texts to token ids, token ids to batches. Knows no model."""
