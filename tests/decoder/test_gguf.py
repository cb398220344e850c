"""GGUF files written by the gguf library, as llama.cpp's converter does, read by ours."""

import json
import struct

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize

from lastblock.decoder import hub
from lastblock.decoder.gguf import convert
from lastblock.decoder.gguf_reader import read_gguf
from lastblock.decoder.loading import load_decoder
from lastblock.errors import WeightsError

ARCHITECTURES = {
    "gpt2": "gpt2",
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3_text": "gemma3",
}
KINDS = [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q5_1, Kind.Q4_K]
VOCABULARY = 61


def _changes(family):
    if family == "gpt2":
        return {"n_embd": 256, "n_inner": 256, "n_layer": 2, "n_positions": 32}
    layers = 7 if family == "gemma3_text" else 2
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
    changes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": layers, **heads}
    if family == "gemma3_text":
        changes["query_pre_attn_scalar"] = 64  # llama.cpp takes head_dim for it
        changes["rope_parameters"] = {
            "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        }
    if family == "llama":
        changes["attention_bias"] = True
    return changes


def _neighbours(rows, heads):
    """llama.cpp's ``LlamaModel.permute``: halves of a head become neighbours."""
    shape = rows.shape
    return rows.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def _halves(rows, heads):
    shape = rows.shape
    return rows.reshape(heads, shape[0] // heads // 2, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def _random_q4_k(shape):
    """Blocks of 256: two halves, 12 bytes of 6-bit scales and minima, 128 bytes of 4-bit values."""
    generator = np.random.default_rng(0)
    blocks = int(np.prod(shape)) // 256
    raw = generator.integers(0, 256, (blocks, 144), dtype=np.uint8)
    halves = generator.uniform(0.0001, 0.0005, (blocks, 2)).astype(np.float16)
    raw[:, :4] = halves.view(np.uint8)
    return raw.reshape(*shape[:-1], -1)


def _quantised(values, kind):
    if kind == Kind.Q4_K:
        return _random_q4_k(values.shape)
    return quantize(np.ascontiguousarray(values), kind)


def _write(model, family, kind, path, **fields):
    """Write a GGUF file, and give the model the values that the file holds."""
    config, architecture = model.config, ARCHITECTURES[family]
    writer = gguf.GGUFWriter(path, architecture)
    _write_fields(writer, config, family)
    for name, value in fields.items():
        key = f"{architecture}.{name.replace('__', '.')}"
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}
        add[type(value)](key, value)
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers
    )
    state = model.state_dict()
    for theirs, parameter in state.items():
        if theirs == "lm_head.weight":
            continue
        name = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
        values = parameter.numpy()
        conv1d = family == "gpt2" and ".c_" in theirs and values.ndim == 2
        heads = 0
        if architecture == "llama" and (".q_proj" in theirs or ".k_proj" in theirs):
            heads = config.num_attention_heads if ".q_" in theirs else config.num_key_value_heads
        one = np.float32(family == "gemma3_text" and theirs.endswith("norm.weight"))
        values = values.T if conv1d else values
        values = _neighbours(values, heads) if heads else values + one
        its = kind if values.ndim == 2 else Kind.F32
        stored = _quantised(values, its)
        writer.add_tensor(name, stored, raw_dtype=its)
        read = dequantize(stored, its)
        read = _halves(read, heads) if heads else read - one
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(read.T if conv1d else read)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_fields(writer, config, family):
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{i}" for i in range(VOCABULARY - 1)] + ["<|endoftext|>"])
    writer.add_token_types([1] * (VOCABULARY - 1) + [3])
    writer.add_token_merges([])
    if family == "gpt2":
        writer.add_feed_forward_length(config.n_inner)
        return writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    rope = config.rope_parameters
    if family == "gemma3_text":
        rope = rope["full_attention"]
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_freq_base(rope["rope_theta"])
    if family in ("mistral", "gemma3_text"):
        writer.add_sliding_window(config.sliding_window)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LASTBLOCK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_equals_dequantised_transformers(
    family, kind, reference, hidden_states, relative_error, tmp_path
):
    model = reference(family, **_changes(family))
    _write(model, family, kind, tmp_path / "tiny.gguf")
    convert(tmp_path / "tiny.gguf", tmp_path / "ours", source={})
    ours = load_decoder(tmp_path / "ours").eval()
    assert next(ours.parameters()).dtype == torch.float32
    ids = torch.randint(VOCABULARY, (2, 17))
    for mine, theirs in zip(hidden_states(ours, ids), hidden_states(model, ids), strict=True):
        assert relative_error(mine, theirs) < 1e-5


def test_q4_k_is_dequantised_as_ggml_defines_it(reference, tmp_path):
    """dequantize_row_q4_K of ggml-quants.c, one number at a time."""
    model = reference("llama", **_changes("llama"))
    _write(model, "llama", Kind.Q4_K, tmp_path / "tiny.gguf")
    tensor = read_gguf(tmp_path / "tiny.gguf").tensors["blk.1.ffn_down.weight"]
    raw, expected = bytes(tensor.data[:144]), []
    d, minimum = struct.unpack("<2e", raw[:4])
    scales, quants = raw[4:16], raw[16:]
    for j in range(8):
        if j < 4:
            scale, low = scales[j] & 63, scales[j + 4] & 63
        else:
            scale = (scales[j + 4] & 15) | ((scales[j - 4] >> 6) << 4)
            low = (scales[j + 4] >> 4) | ((scales[j] >> 6) << 4)
        for byte in quants[j // 2 * 32 : j // 2 * 32 + 32]:
            four = byte & 15 if j % 2 == 0 else byte >> 4
            expected.append(d * scale * four - minimum * low)
    np.testing.assert_allclose(tensor.values()[0], expected, rtol=1e-5)


def test_llama3_rope_factors_are_read(reference, hidden_states, relative_error, tmp_path):
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = {"rope_theta": 10_000.0, "rope_type": "llama3", **scaling}
    rope["original_max_position_embeddings"] = 16
    model = reference("llama", **_changes("llama") | {"rope_parameters": rope})
    plain = 10_000.0 ** -(np.arange(0, 64, 2) / 64)
    factors = plain / model.model.rotary_emb.inv_freq.numpy()
    assert factors.max() > 7
    original, add = gguf.GGUFWriter.write_header_to_file, gguf.GGUFWriter.add_tensor

    def with_factors(writer, *args, **kwargs):
        add(writer, "rope_freqs.weight", factors.astype(np.float32))
        original(writer, *args, **kwargs)

    gguf.GGUFWriter.write_header_to_file = with_factors
    try:
        _write(model, "llama", Kind.F32, tmp_path / "tiny.gguf")
    finally:
        gguf.GGUFWriter.write_header_to_file = original
    convert(tmp_path / "tiny.gguf", tmp_path / "ours", source={})
    ids = torch.randint(VOCABULARY, (2, 17))
    mine = hidden_states(load_decoder(tmp_path / "ours").eval(), ids)[-1]
    assert relative_error(mine, hidden_states(model, ids)[-1]) < 1e-5


def test_given_by_path_it_is_converted_once(reference, tmp_path, cache):
    path = tmp_path / "tiny.gguf"
    _write(reference("llama", **_changes("llama")), "llama", Kind.Q8_0, path)
    first = hub.resolve(str(path))
    stamp = (first.folder / "model.safetensors").stat().st_mtime_ns
    assert hub.resolve(str(path)) == first
    assert (first.folder / "model.safetensors").stat().st_mtime_ns == stamp
    (first.folder / "model.safetensors").write_bytes(b"truncated")
    hub.resolve(str(path))
    assert load_decoder(first.folder).depth == 2
    _write(reference("llama", **_changes("llama")), "llama", Kind.F32, path)
    again = hub.resolve(str(path))
    assert again.folder == first.folder
    assert again.revision != first.revision
    assert [p.name for p in (cache / "models").iterdir()] == [first.folder.name]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"expert_count": 8}, "expert_count is 8"),
        ({"rope__scaling__type": "yarn"}, "'yarn' is not computed"),
        ({"rope__dimension_count": 32}, "rope.dimension_count is 32"),
    ],
)
def test_what_is_not_computed_is_refused(fields, message, reference, tmp_path):
    path = tmp_path / "tiny.gguf"
    _write(reference("llama", **_changes("llama")), "llama", Kind.F32, path, **fields)
    with pytest.raises(WeightsError, match=message) as raised:
        convert(path, tmp_path / "ours", source={})
    assert str(path) in str(raised.value)
    assert not (tmp_path / "ours").exists()


def test_what_the_library_cannot_dequantise_is_refused(reference, tmp_path):
    path, name = tmp_path / "tiny.gguf", b"blk.0.attn_q.weight"
    _write(reference("llama", **_changes("llama")), "llama", Kind.F32, path)
    whole = bytearray(path.read_bytes())
    kind = whole.index(name) + len(name) + 4 + 2 * 8  # after how many sizes there are, and these
    assert struct.unpack_from("<I", whole, kind) == (Kind.F32,)
    struct.pack_into("<I", whole, kind, Kind.I32)
    path.write_bytes(whole)
    with pytest.raises(WeightsError, match=r"attn_q\.weight is of type I32.*another") as raised:
        convert(path, tmp_path / "ours", source={})
    assert str(path) in str(raised.value)
    assert not (tmp_path / "ours").exists()


def test_an_unknown_architecture_lists_those_known(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(WeightsError, match=r"'mamba'.* gpt2, llama, qwen2, qwen3, gemma3"):
        convert(tmp_path / "x.gguf", tmp_path / "ours", source={})


def test_the_file_says_where_it_comes_from(reference, tmp_path):
    path = tmp_path / "tiny.gguf"
    _write(reference("llama", **_changes("llama")), "llama", Kind.F32, path)
    convert(path, tmp_path / "ours", source={"sha256": "abc"})
    source = json.loads((tmp_path / "ours" / "source.json").read_text())
    assert source["sha256"] == "abc"
    assert set(source["files"]) == {"config.json", "model.safetensors", "gguf_tokenizer.json"}
