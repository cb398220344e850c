"""What is asked of the machine, and what is left as the user has set it."""

import ctypes
import sys

import pytest

from lastblock.runtime import keep_freed_memory


def test_what_the_user_says_of_memory_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: object) -> None:
        raise AssertionError("the C library was asked")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    keep_freed_memory.__wrapped__()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
@pytest.mark.parametrize("library", ["glibc", "another"])
def test_the_c_library_is_asked_where_it_can_be(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    class Glibc:
        def mallopt(self, name: int, value: int) -> int:
            asked.append((name, value))
            return 1

    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Glibc() if library == "glibc" else object())
    keep_freed_memory.__wrapped__()
    assert [name for name, _ in asked] == ([-3, -1] if library == "glibc" else [])
