"""Files that are not as they should be: an error that names file and tensor, soon, in bounds."""

import json
import random
import resource
import struct
import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lastblock.decoder.config import FAMILIES
from lastblock.decoder.gguf import convert
from lastblock.decoder.loading import load_decoder, read_config
from lastblock.errors import WeightsError

FUZZ = settings(
    max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
SECONDS, MEGABYTES = 5, 400  # for one file, and for all of them


@pytest.fixture
def folder(tmp_path, reference):
    reference("llama").save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def _change(folder, change):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize("family", FAMILIES)
def test_depth_keeps_the_first_blocks(family, reference, tmp_path):
    reference(family).save_pretrained(tmp_path)
    whole, cut = load_decoder(tmp_path).state_dict(), load_decoder(tmp_path, depth=2)
    assert cut.depth == 2
    for name, tensor in cut.state_dict().items():
        assert torch.equal(tensor, whole[name])


def test_what_is_cut_off_is_not_read(folder, monkeypatch):
    """Tensors of other blocks may even be missing from the file."""
    _change(folder, lambda s: [s.pop(n) for n in list(s) if ".layers.2." in n or "lm_head" in n])
    assert load_decoder(folder, depth=2).depth == 2
    with pytest.raises(WeightsError, match=r"model\.layers\.2\.input_layernorm\.weight is missing"):
        load_decoder(folder)


@pytest.mark.parametrize("depth", [0, -1, 4])
def test_depth_out_of_range(folder, depth):
    with pytest.raises(WeightsError, match="not from 1 to 3"):
        load_decoder(folder, depth=depth)


def test_shards_equal_the_whole(tmp_path, reference):
    model = reference("qwen3")
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    one = load_decoder(tmp_path / "one").state_dict()
    many = load_decoder(tmp_path / "many").state_dict()
    assert one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_a_shard_that_is_missing_is_named(tmp_path, reference):
    reference("qwen3").save_pretrained(tmp_path, max_shard_size="20KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(WeightsError, match=shard.name):
        load_decoder(tmp_path)


@pytest.mark.parametrize(
    "index", ["[", "{}", '{"weight_map": {"a": "../../x"}}', '{"weight_map": 1}']
)
def test_a_damaged_index_is_named(folder, index):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(WeightsError, match=r"index\.json"):
        load_decoder(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bare_decoder_without_a_prefix_is_read(family, reference, tmp_path):
    model = reference(family)
    model.base_model.save_pretrained(tmp_path / "bare")
    model.save_pretrained(tmp_path / "whole")
    bare = load_decoder(tmp_path / "bare").state_dict()
    whole = load_decoder(tmp_path / "whole").state_dict()
    assert all(torch.equal(bare[name], whole[name]) for name in whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_stay_as_stored(reference, tmp_path, dtype):
    model = reference("llama").to(dtype)
    model.save_pretrained(tmp_path)
    ours = load_decoder(tmp_path)
    assert {t.dtype for t in ours.state_dict().values()} == {dtype}
    assert torch.equal(ours.embed_tokens.weight, model.model.embed_tokens.weight)


def test_parts_of_different_types_lose_nothing(folder):
    name = "model.layers.0.self_attn.k_proj.weight"

    def mix(state):
        for each in state:
            state[each] = state[each].bfloat16()
        state[name] = torch.randn(state[name].shape)
        mix.k = state[name]

    _change(folder, mix)
    qkv = load_decoder(folder).blocks[0].attn.qkv.weight
    assert qkv.dtype == torch.float32
    assert torch.equal(qkv[32:48], mix.k)


def test_missing_unknown_and_misshapen_tensors_are_named(folder):
    file = (folder / "model.safetensors").read_bytes()
    norm = "model.layers.1.post_attention_layernorm.weight"
    for name, change, message in [
        (norm, lambda s: s.pop(norm), "is missing"),
        (
            "model.layers.9.mlp.x",
            lambda s: s.update({"model.layers.9.mlp.x": s[norm] + 1}),
            "not known",
        ),
        (norm, lambda s: s.update({norm: torch.zeros(7)}), r"shape \(7,\)"),
        (norm, lambda s: s.update({norm.removeprefix("model."): s[norm].clone()}), "twice"),
        (norm, lambda s: s.update({norm: s[norm].to(torch.int8)}), "type I8"),
    ]:
        _change(folder, change)
        with pytest.raises(WeightsError, match=message) as raised:
            load_decoder(folder)
        assert name.removeprefix("model.") in str(raised.value)
        assert str(folder) in str(raised.value)
        (folder / "model.safetensors").write_bytes(file)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[1]", "not a JSON object"),
        ('{"model_type": "mamba"}', "gpt2, llama, mistral, qwen2, qwen3, gemma3_text"),
        ("{}", "None is not a family"),
        ('{"model_type": "llama", "num_hidden_layers": 1000000000}', "1000000000 is no number of"),
        ('{"model_type": "llama", "num_hidden_layers": 2}', "'hidden_size' is missing"),
    ],
)
def test_a_damaged_config_is_named(folder, config, message):
    (folder / "config.json").write_text(config)
    with pytest.raises(WeightsError, match=message) as raised:
        read_config(folder)
    assert str(folder) in str(raised.value)


def test_a_quantised_checkpoint_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))
    with pytest.raises(WeightsError, match="quantised"):
        read_config(folder)


def _bounded(act):
    """Run; the outcome may be an error of ours, and nothing else, in bounded time and memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    message = "tiny.gguf"
    try:
        act()
    except WeightsError as error:
        message = str(error)
    assert "\n" not in message
    assert any(file in message for file in ("model.safetensors", "tiny.gguf", "config.json"))
    assert time.monotonic() - start < SECONDS
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < MEGABYTES * 1024


@st.composite
def _damage(draw, data, header):
    """A damaged copy of a file: truncated, bits flipped, or numbers made absurd."""
    data = bytearray(data)
    kind = draw(st.sampled_from(["truncate", "flip", "number", "zero", "junk"]))
    if kind == "truncate":
        return bytes(data[: draw(st.integers(0, len(data) - 1))])
    if kind == "junk":
        return draw(st.binary(max_size=64)) + bytes(data[draw(st.integers(0, 64)) :])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, header - 9))
        if kind == "flip":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "zero":
            data[at : at + 8] = bytes(8)
        else:
            number = draw(st.sampled_from([2**60, 2**63 - 1, 2**64 - 1, 2**31, 2**40, 1]))
            data[at : at + 8] = struct.pack("<Q", number)
    return bytes(data)


def test_damaged_safetensors_end_in_an_error(folder):
    path = folder / "model.safetensors"
    original = path.read_bytes()
    header = 8 + struct.unpack("<Q", original[:8])[0]

    @FUZZ
    @given(_damage(original, header))
    def check(data):
        path.write_bytes(data)
        _bounded(lambda: load_decoder(folder))

    check()


def test_absurd_headers_of_safetensors_are_refused(folder):
    path = folder / "model.safetensors"
    original = path.read_bytes()
    size = struct.unpack("<Q", original[:8])[0]
    header = json.loads(original[8 : 8 + size])
    name = "model.norm.weight"

    def write(tensors):
        text = json.dumps(tensors).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + original[8 + size :])

    path.write_bytes(struct.pack("<Q", 2**60) + original[8:])
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        load_decoder(folder)
    other = header["model.layers.0.input_layernorm.weight"]["data_offsets"]
    for entry in (
        {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [32], "data_offsets": other},  # overlaps
        {"dtype": "F32", "shape": [32], "data_offsets": [2**60, 2**60 + 128]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
    ):
        write(header | {name: entry})
        with pytest.raises(WeightsError, match=r"model\.safetensors"):
            load_decoder(folder)


def _tiny_gguf(path):
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_head_count(2)
    writer.add_feed_forward_length(32)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{i}" for i in range(10)])
    writer.add_token_types([1] * 10)
    matrices = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    tensors = {f"blk.0.{name}.weight": (32, 32) for name in matrices}
    tensors |= {"blk.0.attn_norm.weight": (32,), "blk.0.ffn_norm.weight": (32,)}
    tensors |= {"token_embd.weight": (10, 32), "output_norm.weight": (32,)}
    generator = np.random.default_rng(0)
    for name, shape in tensors.items():
        writer.add_tensor(name, generator.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_damaged_gguf_ends_in_an_error(tmp_path):
    path = tmp_path / "tiny.gguf"
    _tiny_gguf(path)
    convert(path, tmp_path / "whole", source={})
    original = path.read_bytes()
    header = original.index(b"output_norm.weight") + 60

    @FUZZ
    @given(_damage(original, header))
    def check(data):
        path.write_bytes(data)
        _bounded(lambda: convert(path, tmp_path / "ours", source={}))

    check()


def test_gguf_with_a_list_as_long_as_the_universe(tmp_path):
    path = tmp_path / "tiny.gguf"
    _tiny_gguf(path)
    data = path.read_bytes()
    at = data.index(b"tokenizer.ggml.token_type") + len("tokenizer.ggml.token_type") + 8
    path.write_bytes(data[:at] + struct.pack("<Q", 2**60) + data[at + 8 :])
    with pytest.raises(WeightsError, match=r"tiny\.gguf"):
        convert(path, tmp_path / "ours", source={})


def test_damaged_configs_end_in_an_error(folder):
    path = folder / "config.json"
    original = json.loads(path.read_text())
    values = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-1, 2**70),
        st.floats(),
        st.text(max_size=3),
        st.lists(st.integers(0, 3), max_size=3),
        st.dictionaries(st.sampled_from(["rope_type", "factor", "type"]), st.text(max_size=2)),
    )

    @FUZZ
    @given(
        st.dictionaries(st.sampled_from(sorted(original)), values, min_size=1, max_size=3),
        st.sampled_from(sorted(FAMILIES)),
        st.integers(0, 2**32),
    )
    def check(changes, family, seed):
        kept = {k: v for k, v in original.items() if random.Random(seed).random() > 0.05}
        path.write_text(json.dumps(kept | {"model_type": family} | changes))
        _bounded(lambda: load_decoder(folder))

    check()
