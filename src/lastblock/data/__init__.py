"""Texts and labels: read, inspect, split, balance. Imports no torch."""
