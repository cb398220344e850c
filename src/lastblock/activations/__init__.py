"""What the frozen prefix says about each text: computed once, kept in memory and on disk."""

from lastblock.activations.store import (
    TOKEN_BUDGET,
    ActivationStore,
    activations_of,
    open_store,
    run_prefix,
    run_summary,
    run_tail,
    states_of,
)

__all__ = [
    "TOKEN_BUDGET",
    "ActivationStore",
    "activations_of",
    "open_store",
    "run_prefix",
    "run_summary",
    "run_tail",
    "states_of",
]
