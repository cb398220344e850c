"""``datasets``: what can be had by name, for people and for programs."""

import json

import pytest

from lastblock.cli import run
from lastblock.data.catalog import DATA_SETS


def test_every_set_is_listed_with_where_it_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["datasets"]) == 0
    printed = capsys.readouterr().out
    for entry in DATA_SETS.values():
        for fact in (entry.name, entry.title, entry.licence, entry.source, entry.sha256):
            assert fact in printed


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["datasets", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in entries] == ["bbc-news", "sms-spam"]
    assert entries[1]["size_bytes"] == 477_907
