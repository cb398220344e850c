"""The kernels in C give what torch gives in float64, and whoever has none of them does without."""

import copy
import ctypes
import runpy
from contextlib import nullcontext
from dataclasses import replace
from itertools import product

import pytest
import setuptools
import torch
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError
from tiny import FAMILIES, random_batch, random_decoder
from torch.nn import functional as F

from lastblock.decoder import kernels
from lastblock.decoder.config import Rope
from lastblock.decoder.decoder import Decoder
from lastblock.decoder.layers import _sees, rotary_tables, rotate
from lastblock.decoder.precision import set_precision


@pytest.fixture
def with_kernels(use_kernels):
    use_kernels(True)


@pytest.fixture
def without_kernels(use_kernels):
    use_kernels(False)


needs_kernels = pytest.mark.usefixtures("with_kernels")
# Matrix tiles are used wherever there are any.
WAYS = [False, True] if kernels.have_tiles() else [False]


@needs_kernels
@pytest.mark.parametrize("tiled", WAYS)
@pytest.mark.parametrize("rows", [1, 5, 6, 13, 16, 17, 200])
@pytest.mark.parametrize("columns", [2, 64, 66, 300])
@pytest.mark.parametrize("size", [3, 16, 50, 576])
def test_products_equal_float64(tiled, rows, columns, size, monkeypatch):
    monkeypatch.setattr(kernels, "have_tiles", lambda: tiled)
    for activation, gated, bias, factor, eps in (
        (None, False, False, False, None),
        (None, False, True, True, 1e-5),
        ("silu", True, False, True, 1e-6),
        ("gelu_tanh", True, True, False, None),
        ("gelu_tanh", False, True, False, None),
        ("silu", False, False, False, None),
    ):
        weight = torch.randint(-127, 128, (columns, size), dtype=torch.int8)
        scale = torch.rand(columns) / 127 / size**0.5
        of_bias = torch.randn(columns) if bias else None
        of_factor = torch.rand(size) + 0.5 if factor else None
        x = torch.randn(rows, size) * 10 ** torch.randn(rows, 1)
        layer = kernels.Packed(weight, scale, of_bias, of_factor, eps, activation, gated)

        given = x if of_factor is None else x * of_factor
        unit = given.abs().amax(1, keepdim=True) / 127
        sums = (given * (1 / unit)).round().double() @ weight.double().T
        unit = unit.double()
        if eps is not None:
            unit = unit / (x.double().square().mean(1, keepdim=True) + eps).sqrt()
        y = sums * scale.double() * unit + (0 if of_bias is None else of_bias.double())
        parts = y.chunk(2, dim=1) if gated else (y, torch.ones(()))
        act = {
            None: lambda t: t,
            "silu": F.silu,
            "gelu_tanh": lambda t: F.gelu(t, approximate="tanh"),
        }[activation]
        exact = act(parts[0]) * parts[1]
        found = layer(x).double()
        assert (found - exact).abs().max() <= 1e-5 * max(exact.abs().max(), y.abs().max())


@needs_kernels
@pytest.mark.skipif(not kernels.have_tiles(), reason="this processor has no matrix tiles")
@pytest.mark.parametrize("rows", [1, 15, 16, 33, 192, 250])
@pytest.mark.parametrize("shape", [(66, 50), (192, 576), (150, 1536)])
@pytest.mark.parametrize("activation", [None, "silu", "gelu_tanh"])
@pytest.mark.parametrize("gated", [False, True])
def test_tiles_change_no_bit(rows, shape, activation, gated, monkeypatch):
    (out, size), wide = shape, shape[0] // (2 if gated else 1)
    weight, factor = torch.randint(-128, 128, shape, dtype=torch.int8), torch.rand(size)
    back = torch.randint(-128, 128, (70, wide), dtype=torch.int8)
    scale, bias = torch.rand(out) / 1000, torch.randn(out)
    x, added = torch.randn(rows, size), torch.randn(rows, 70)
    x[rows // 2, 5] = torch.nan
    x[:, 3] *= 1e4  # on the edge of what integers hold
    said = []
    for tiled in (False, True):
        monkeypatch.setattr(kernels, "have_tiles", lambda tiled=tiled: tiled)
        into = kernels.Packed(weight, scale, bias, factor, 1e-6, activation, gated)
        down = kernels.Packed(back, torch.ones(70), None, None, None)
        said.append([into(x).nan_to_num(7.0), kernels.chain(x, into, down, added).nan_to_num(7.0)])
    assert all(torch.equal(*pair) for pair in zip(*said, strict=True))


@needs_kernels
@pytest.mark.parametrize("dim", [2, 10, 64, 96])
@pytest.mark.parametrize("length", [1, 7, 45, 150])
@pytest.mark.parametrize(("heads", "kv_heads"), [(9, 3), (2, 2), (4, 1)])
def test_attention_equals_float64(dim, length, heads, kv_heads):
    rope = Rope(10_000.0)
    for texts, first, causal, window, turned in product(
        (1, 3), (0, 9), (True, False), (None, 5), (True, False)
    ):
        # As a product gives them: queries, keys and values of a token side by side.
        together = torch.randn(texts, length, heads + 2 * kv_heads, dim)
        q, k, v = together.split([heads, kv_heads, kv_heads], dim=2)
        before = tuple(torch.randn(2, 1, first, kv_heads, dim)) if first else None
        cos, sin = (table[first:] for table in rotary_tables(rope, dim, first + length))
        assert kernels.can_attend(q, k, v)
        rotary = (cos, sin) if turned else None
        of_heads = kernels.Heads(heads, kv_heads, dim, 0.3, causal, window)
        found = kernels.attend(q, k, v, of_heads, rotary, before)

        q, k, v = q.double(), k.double(), v.double()
        if turned:
            q, k = (rotate(x, cos[:, None].double(), sin[:, None].double()) for x in (q, k))
        if before is not None:
            k, v = (
                torch.cat((one.double().expand(texts, -1, -1, -1), own), dim=1)
                for one, own in zip(before, (k, v), strict=True)
            )
        at = torch.arange(first + length)
        exact = F.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (q, k, v)),
            attn_mask=_sees(at[first:, None], at, causal, window),
            scale=0.3,
            enable_gqa=True,
        )
        exact = exact.transpose(1, 2).flatten(2)
        assert (found.double() - exact).abs().max() <= 1e-5 * exact.abs().max()


def _attend(q, k, v):
    heads = kernels.Heads(q.shape[2], k.shape[2], q.shape[3], 1.0, causal=True, window=None)
    return kernels.attend(q, k, v, heads, None, None)


@needs_kernels
def test_no_rows_are_no_error():
    layer = kernels.Packed(torch.ones(64, 8, dtype=torch.int8), torch.ones(64), None, None, None)
    assert layer(torch.empty(0, 8)).shape == (0, 64)
    assert _attend(*(torch.empty(0, 5, 2, 16) for _ in range(3))).shape == (0, 5, 32)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_inputs_in_another_precision_are_turned_first(dtype):
    decoder = random_decoder()
    set_precision(decoder, 4, "int8", torch.randint(0, 97, (60,)))
    x = torch.randn(3, 20, 48).to(dtype)
    with torch.no_grad():
        said, exact = decoder.run(x, 0, 1), decoder.run(x.float(), 0, 1)
    # The positions' tables are in that precision too.
    assert (said.float() - exact).norm() / exact.norm() < 0.01
    given = (torch.randn(1, 2, 2, 4, dtype=dtype) for _ in range(3))
    assert kernels.can_attend(*given) == (dtype == torch.bfloat16)


@needs_kernels
def test_attention_in_16_bits_is_that_in_32_rounded():
    together = torch.randn(3, 20, 10, 8).bfloat16()
    parts = together.split([6, 2, 2], dim=2)
    assert kernels.can_attend(*parts)
    found, exact = _attend(*parts), _attend(*together.float().split([6, 2, 2], dim=2))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.bfloat16())


@needs_kernels
def test_no_tokens_are_no_error():
    decoder = random_decoder()
    set_precision(decoder, 2, "int8", torch.randint(0, 97, (60,)))
    with torch.no_grad():
        for shape in ((2, 0, 48), (0, 5, 48)):
            assert decoder.run(torch.empty(shape), 0, 1).shape == shape


@needs_kernels
def test_weights_that_are_loaded_anew_are_used():
    decoder, other = random_decoder(), random_decoder()
    sample, ids = torch.randint(0, 97, (60,)), random_batch()[0]
    for one in (decoder, other):
        set_precision(one, 4, "int8", sample)
    with torch.no_grad():
        decoder.run(decoder.embed(ids), 0, 4)
        decoder.load_state_dict(other.state_dict())
        assert torch.equal(*(one.run(one.embed(ids), 0, 4) for one in (decoder, other)))


@needs_kernels
def test_a_long_text_of_few_heads_is_left_to_torch():
    heads = kernels.Heads(4, 1, 64, 0.1, causal=True, window=None)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    worth = [kernels.worth_attending(n, t, heads) for n, t in ((1, 512), (1, 513), (2, 513))]
    torch.set_num_threads(before)
    assert worth == [True, False, True]


@needs_kernels
def test_large_scores_overflow_nothing():
    q, k, v = (torch.randn(2, 20, 4, 16) * 100 for _ in range(3))
    found = _attend(q, k, v)
    q, k, w = (x.double().transpose(1, 2) for x in (q, k, v))
    exact = F.scaled_dot_product_attention(q, k, w, is_causal=True, scale=1.0)
    exact = exact.transpose(1, 2).flatten(2)
    assert (found.double() - exact).abs().max() <= 1e-3 * exact.abs().max()


@needs_kernels
def test_what_is_no_number_stays_so():
    """Nothing is made of it that looks like a result, and other texts are as they were."""
    weight, scale = torch.randint(-127, 128, (70, 40), dtype=torch.int8), torch.rand(70)
    layer = kernels.Packed(weight, scale, None, None, None)
    x = torch.randn(9, 40)
    plain = layer(x)
    x[2, 7], x[5, 39] = torch.nan, torch.inf
    said = layer(x)
    assert said[[2, 5]].isnan().all()
    sane = [0, 1, 3, 4, 6, 7, 8]
    assert torch.equal(said[sane], plain[sane])

    q, k, v = (torch.randn(3, 12, 2, 16) for _ in range(3))
    plain = _attend(q, k, v)
    k[1, 4] = torch.nan
    said = _attend(q, k, v)
    assert said[1, 4:].isnan().all()
    assert torch.equal(said[0], plain[0])
    assert torch.equal(said[2], plain[2])
    assert torch.equal(said[1, :4], plain[1, :4])


@needs_kernels
def test_no_text_changes_what_another_gives():
    q, k, v = (torch.randn(5, 33, 4, 16) for _ in range(3))
    together = _attend(q, k, v)
    for i in range(5):
        one = slice(i, i + 1)
        alone = _attend(q[one], k[one], v[one])
        assert torch.equal(alone[0], together[i])


@needs_kernels
@pytest.mark.parametrize("rows", [1, 50, 192, 193, 700])
def test_a_chain_is_one_layer_after_the_other(rows):
    into, out = (
        kernels.Packed(
            torch.randint(-127, 128, shape, dtype=torch.int8),
            torch.rand(shape[0]) / 1000,
            torch.randn(shape[0]),
            None,
            1e-5,
            *what,
        )
        for shape, what in (((140, 48), ("silu", True)), ((48, 70), (None, False)))
    )
    x, added = torch.randn(rows, 48), torch.randn(rows, 48)
    assert torch.equal(kernels.chain(x, into, out), out(into(x)))
    assert torch.equal(kernels.chain(x, into, out, added), out(into(x)) + added)


@needs_kernels
@pytest.mark.parametrize("length", [1, 50, 192, 200])
@pytest.mark.parametrize("texts", [1, 3, 9])
def test_attention_from_end_to_end_is_its_parts_in_turn(length, texts):
    heads = kernels.Heads(6, 2, 8, 0.3, causal=True, window=None)
    qkv, out = (
        kernels.Packed(
            torch.randint(-127, 128, shape, dtype=torch.int8), torch.rand(shape[0]), None, None, eps
        )
        for shape, eps in (((80, 40), 1e-5), ((40, 48), None))
    )
    x, rotary = torch.randn(texts, length, 40), tuple(torch.randn(2, length, 8))
    before = tuple(torch.randn(2, 1, 4, 2, 8))
    q, k, v = qkv(x).unflatten(-1, (-1, 8)).split([6, 2, 2], dim=2)
    exact = out(kernels.attend(q, k, v, heads, rotary, before))
    given, added = (x, qkv, out, heads, rotary, before), torch.randn(x.shape)
    assert torch.equal(kernels.self_attention(*given), exact)
    assert torch.equal(kernels.self_attention(*given, added=added), exact + added)


@needs_kernels
@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_nothing(threads):
    decoder = random_decoder()
    set_precision(decoder, 4, "int8", torch.randint(0, 97, (60,)))
    ids = torch.randint(0, 97, (40, 60))
    said, before = [], torch.get_num_threads()
    for count in (1, threads):
        torch.set_num_threads(count)
        with torch.no_grad():
            said.append(decoder.run(decoder.embed(ids), 0, 4))
    torch.set_num_threads(before)
    assert torch.equal(*said)


@needs_kernels
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_give_what_they_give_without(family, precision, monkeypatch):
    decoder = random_decoder(family)
    for parameter in decoder.parameters():
        parameter.data.mul_(0.3)
    if precision == "int8":
        set_precision(decoder, 4, "int8", torch.randint(0, 97, (60,)))
    ids, _ = random_batch()
    with torch.no_grad():
        for index in range(4):
            x = decoder.run(decoder.embed(ids), 0, index)
            found = decoder.run(x, index, index + 1)
            with monkeypatch.context() as patch:
                patch.setattr(kernels, "available", lambda: False)
                exact = decoder.run(x, index, index + 1)
            # Where an input lies on the edge of two integers, either may be taken.
            near = (found - exact).norm(dim=-1) / exact.norm(dim=-1)
            assert near.median() < 1e-5
            assert near.max() < 0.01


@needs_kernels
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("begins", [False, True])
def test_blocks_in_one_call_are_blocks_in_turn_to_the_bit(family, begins, monkeypatch):
    decoder = random_decoder(family)
    set_precision(decoder, 4, "int8", torch.randint(0, 97, (60,)))
    ids, lengths = random_batch()
    if begins:
        ids = torch.cat((torch.arange(9).expand(len(ids), -1), ids), dim=1)
        lengths = lengths + 9
        decoder.begin_with(torch.arange(9))
    ids[1] = ids[0]  # begins as the one before it does

    def climbed():
        with torch.no_grad():
            return decoder.climb(ids, lengths).to(1).to(4).states()

    whole = climbed()
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "_packed", lambda start, stop: [])
        in_turn = climbed()
    assert all(torch.equal(*pair) for pair in zip(whole, in_turn, strict=True))


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_in_one_call_may_each_see_in_their_own_way(dtype):
    """Windows and positions that differ from block to block, and states that are turned first."""
    config, ropes = random_decoder().config, [Rope(theta) for theta in (1e4, 1e2)]
    config = replace(config, windows=(None, 3, 8, None), ropes=(*ropes, ropes[0], None))
    decoder = Decoder(config)
    decoder.load_state_dict(random_decoder().state_dict())
    decoder.blocks[2].attn.causal = False
    set_precision(decoder, 4, "int8", torch.randint(0, 97, (60,)))
    x = torch.randn(3, 40, config.hidden_size).to(dtype)
    with torch.no_grad():
        in_turn = x
        for index in range(4):
            tables = decoder.rotary(index, torch.float32, 40)
            in_turn = decoder.blocks[index](in_turn.float(), tables)
        assert torch.equal(decoder.run(x, 0, 4), in_turn)


@needs_kernels
def test_blocks_of_which_one_is_not_packed_are_run_in_turn():
    decoder = random_decoder()
    set_precision(decoder, 3, "int8", torch.randint(0, 97, (60,)))
    x = decoder.embed(random_batch()[0])
    with torch.no_grad():
        in_parts = decoder.run(decoder.run(x, 0, 3), 3, 4)
        assert torch.equal(decoder.run(x, 0, 4), in_parts)
        assert decoder.run(x, 2, 2) is x


def test_gradients_flow_with_or_without():
    decoder = random_decoder()
    ids, _ = random_batch()
    decoder.run(decoder.embed(ids), 0, 2).sum().backward()
    assert decoder.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


@pytest.mark.usefixtures("without_kernels")
def test_whoever_has_no_kernels_does_without():
    decoder = random_decoder()
    rounded = copy.deepcopy(decoder)
    set_precision(rounded, 4, "int8", torch.randint(0, 97, (60,)))
    ids, _ = random_batch()
    with torch.no_grad():
        assert decoder.run(decoder.embed(ids), 0, 4).isfinite().all()
        assert rounded.run(rounded.embed(ids), 0, 4).isfinite().all()


@pytest.mark.parametrize(
    ("built", "tiles", "processor_has_tiles", "fastest"),
    [
        (True, False, False, True),
        (True, True, True, True),
        (True, False, True, False),  # torch's bfloat16 goes through them, and ours do not
        (False, False, True, False),
        (False, False, False, False),
    ],
)
def test_integers_are_fastest_unless_torch_alone_uses_tiles(
    built, tiles, processor_has_tiles, fastest, monkeypatch
):
    monkeypatch.setattr(kernels, "available", lambda: built)
    monkeypatch.setattr(kernels, "have_tiles", lambda: tiles)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: processor_has_tiles)
    assert kernels.have_fastest_integers() == fastest


@pytest.mark.parametrize("errors", [0, 1, 2])
def test_the_build_does_without_tiles_where_they_cannot_be_compiled(
    errors, project_root, monkeypatch
):
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    build = runpy.run_path(str(project_root / "setup.py"))["BuildKernels"]
    tried = []

    def compiled(self, extension):
        tried.append(list(extension.define_macros))
        if len(tried) <= errors:
            raise CompileError

    monkeypatch.setattr(build_ext, "build_extension", compiled)
    expected = pytest.raises(CompileError) if errors == 2 else nullcontext()
    with expected:
        build(Distribution()).build_extension(Extension("kernels", []))
    assert tried == [[], [("NO_TILES", "1")]][: errors + 1]


@pytest.mark.parametrize("broken", ["missing", "another machine's", "another processor's", "older"])
def test_a_library_that_cannot_be_used_is_not(broken, tmp_path, monkeypatch):
    class Unsupported:
        def version(self) -> int:
            return 0 if broken == "another processor's" else kernels._VERSION + 1

    (tmp_path / "_kernels.so").write_bytes(b"no library")
    monkeypatch.setattr(kernels, "EXTENSION_SUFFIXES", [] if broken == "missing" else [".so"])
    monkeypatch.setattr(kernels, "__file__", str(tmp_path / "kernels.py"))
    if broken in ("another processor's", "older"):
        monkeypatch.setattr(ctypes, "CDLL", lambda path: Unsupported())
    assert kernels.library.__wrapped__() is None


@needs_kernels
@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (300, 66), (576, 1536)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_rounded_as_torch_does(shape, dtype):
    weight, by = torch.randn(shape).to(dtype), torch.rand(shape[1]) + 0.1
    weight[0], weight[-1, -1] = 0, 1e-9  # rows of nothing have a unit too
    for given in (weight, weight.t().contiguous().t()):  # as GPT-2's lie
        whole, scale = kernels.round_rows(given, by, 1e-5)
        product = weight.float() * by
        exact = product.abs().amax(1).clamp_min(1e-5) / 127
        assert torch.equal(scale, exact)
        assert torch.equal(whole, (product / exact[:, None]).round().to(torch.int8))
        assert whole.is_contiguous()
        assert torch.equal(kernels.largest_in_columns(given), weight.float().abs().amax(0))


@needs_kernels
@pytest.mark.parametrize("row", [0, 3, 39])
@pytest.mark.parametrize("column", [0, 7, 20, 49])
def test_a_weight_that_is_no_number_is_not_rounded_to_one(row, column):
    weight = torch.randn(40, 50)
    weight[row, column] = torch.nan
    _, scale = kernels.round_rows(weight, torch.ones(50), 1e-5)
    assert scale.isnan().nonzero().tolist() == [[row]]
    assert kernels.largest_in_columns(weight).isnan().nonzero().tolist() == [[column]]
