"""What channels are divided by is found out once a decoder and sample, and found again on disk."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import FAMILIES, random_decoder
from torch import Tensor

from lastblock.decoder import channels
from lastblock.decoder.decoder import Decoder
from lastblock.decoder.precision import precision_facts, set_precision

SAMPLE = torch.arange(60) % 97


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LASTBLOCK_CACHE", str(tmp_path))
    return tmp_path / "channels"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many blocks a sample was taken through since it was last asked."""
    count, run = [0], Decoder.run

    def counted(self: Decoder, x: Tensor, start: int, stop: int) -> Tensor:
        count[0] += stop - start
        return run(self, x, start, stop)

    def since() -> int:
        found, count[0] = count[0], 0
        return found

    monkeypatch.setattr(Decoder, "run", counted)
    return since


def _decoder(family: str = "llama") -> Decoder:
    torch.manual_seed(5)
    return random_decoder(family)


def _rounded(family: str = "llama", blocks: int = 3, weights: str | None = "a release") -> Decoder:
    decoder = _decoder(family)
    set_precision(decoder, blocks, "int8", SAMPLE, weights=weights)
    return decoder


def _same(one: Decoder, other: Decoder) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(map(torch.equal, first.values(), second.values()))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_remembered_is_what_was_found_out(family, runs):
    expected = _rounded(family, weights=None)
    assert runs() == 3
    assert _same(_rounded(family), expected)
    assert runs() == 3
    again = _rounded(family)
    assert runs() == 0
    assert _same(again, expected)
    assert precision_facts(again, 3, "int8") == precision_facts(expected, 3, "int8")


def test_of_fewer_blocks_it_serves_and_of_more_it_is_found_out_anew(runs):
    expected = _rounded(blocks=2, weights=None), _rounded(blocks=4, weights=None)
    _rounded(blocks=3)
    runs()
    assert _same(_rounded(blocks=2), expected[0])
    assert runs() == 0
    assert _same(_rounded(blocks=4), expected[1])
    assert runs() == 4
    assert _same(_rounded(blocks=4), expected[1])
    assert runs() == 0


def test_other_weights_samples_and_attention_have_their_own(folder, runs):
    _rounded()
    _rounded(weights="another release")
    decoder = _decoder()
    set_precision(decoder, 3, "int8", SAMPLE[1:], weights="a release")
    decoder = _decoder()
    decoder.set_attention("bidirectional")
    set_precision(decoder, 3, "int8", SAMPLE, weights="a release")
    assert runs() == 12
    assert len(list(folder.iterdir())) == 4


def test_who_computes_otherwise_has_its_own(folder, runs):
    """Else the last bits would be those of whoever came first."""
    threads, each = torch.get_num_threads(), {}
    try:
        for n in (1, 2, 1, 2):
            torch.set_num_threads(n)
            found = _rounded()
            assert _same(found, each.setdefault(n, found))
            assert _same(found, _rounded(weights=None))
    finally:
        torch.set_num_threads(threads)
    assert len(list(folder.iterdir())) == 2


def test_what_is_remembered_can_be_forgotten(folder):
    assert channels.clear() == channels.remembered() == 0
    _rounded()
    assert folder.stat().st_mode & 0o077 == 0
    size = channels.remembered()
    assert size > 4 * 3 * (48 + 48 + 48 + 80)
    assert channels.clear() == size
    assert not folder.exists()


def test_nothing_is_kept_where_nothing_tells_the_decoder_from_others(folder):
    _rounded(weights=None)
    assert not folder.exists()


@pytest.mark.parametrize("damage", ["cut", "other", "empty", "bit", "dtype"])
def test_what_is_damaged_is_found_out_anew_and_replaced(folder, runs, damage):
    expected = _rounded()
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    if damage == "other":  # of a decoder of another shape
        _rounded("gpt2", weights="gpt2")
        (other,) = set(folder.iterdir()) - {path}
        other.replace(path)
    elif damage == "dtype":
        with safe_open(path, framework="pt") as file:
            about, numbers = file.metadata(), file.get_tensor("divisors").double()
        save_file({"divisors": numbers}, path, about)
    elif damage == "bit":
        path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    runs()
    assert _same(_rounded(), expected)
    assert runs() == 3
    assert path.read_bytes() == whole
    assert [file.name for file in folder.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written_to_is_no_reason_to_stop(folder):
    folder.write_text("a file stands where the folder would")
    assert _same(_rounded(), _rounded(weights=None))


def test_heads_that_share_a_value_head_share_what_channels_are_divided_by():
    decoder = _decoder()
    for block, by in zip(
        decoder.blocks, channels.channel_divisors(decoder, 2, SAMPLE), strict=False
    ):
        attn = block.attn
        shared = by[attn.out].view(attn.kv_heads, -1, attn.head_dim)
        assert torch.equal(shared, shared[:, :1].expand_as(shared))
