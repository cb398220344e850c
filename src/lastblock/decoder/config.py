"""DecoderConfig: the shape of a pretrained decoder, in ``config.json``'s own names.

Every family becomes the same few facts, so that the layers need to know the facts and not the
families. Knows no weights, no labels and no text; imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lastblock.errors import WeightsError

Activation = Literal["gelu_tanh", "silu"]
_ACTIVATIONS: dict[str, Activation] = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
# Kinds of rope scaling and the numbers each one needs.
_SCALINGS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "frequency_factors": ("factors",),
}
# Beyond these a file is damaged: nothing so large has been trained. They bound the work and the
# memory that reading one may take.
_MOST_BLOCKS, _MOST = 1024, 2**24


@dataclass(frozen=True)
class Rope:
    """One rotary embedding: its base, and how long contexts stretch it.

    ``scaling`` is None or ``{"rope_type": "linear" | "llama3" | "frequency_factors", ...}``, the
    last a divisor for each frequency, as GGUF files have it.
    """

    theta: float
    scaling: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class DecoderConfig:
    """What the layers have to know. Sizes are counts; ``head_dim`` is per head.

    Blocks below are those of the checkpoint, of which a ``Decoder`` may keep fewer.
    ``windows[i]`` is the number of positions block i sees, itself included; None is all of them.
    ``ropes[i]`` is block i's rotary embedding; None where positions are learned (GPT-2).
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    norm_eps: float
    activation: Activation
    windows: tuple[int | None, ...]
    ropes: tuple[Rope | None, ...]
    attention_scale: float
    norm: Literal["layer", "rms"] = "rms"
    norm_offset: float = 0.0  # Gemma multiplies by 1 + weight
    learned_positions: bool = False
    gated_mlp: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    embedding_scale: float = 1.0

    @staticmethod
    def from_dict(config: Mapping[str, Any]) -> DecoderConfig:
        """Read a checkpoint's ``config.json``.

        Raises:
            WeightsError: the family is unknown, a field is missing or of the wrong type, or the
                checkpoint asks for something these layers would not compute exactly.
        """
        family = config.get("model_type")
        reader = FAMILIES.get(str(family))
        if reader is None:
            raise WeightsError(
                f"config.json: model_type {family!r} is not a family that lastblock knows; "
                f"it knows {', '.join(FAMILIES)}"
            )
        blocks = config.get("n_layer" if family == "gpt2" else "num_hidden_layers")
        if type(blocks) is not int or not 0 < blocks <= _MOST_BLOCKS:
            raise WeightsError(f"config.json: {blocks!r} is no number of blocks ({family})")
        if config.get("quantization_config"):
            raise WeightsError(
                "config.json: the weights are quantised, which is read from .gguf files alone; "
                "use the model's unquantised release"
            )
        try:
            read = reader(config)
        except KeyError as missing:
            raise WeightsError(f"config.json: field {missing} is missing ({family})") from None
        except WeightsError:
            raise
        except (TypeError, AttributeError, ValueError, ArithmeticError) as wrong:
            raise WeightsError(f"config.json: a field has the wrong type: {wrong}") from None
        _check(read)
        return read

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_saved(saved: Mapping[str, Any]) -> DecoderConfig:
        """The inverse of ``to_dict``, after a way through JSON."""
        fields = dict(saved)
        try:
            fields["windows"] = tuple(fields["windows"])
            fields["ropes"] = tuple(rope and Rope(**rope) for rope in fields["ropes"])
            config = DecoderConfig(**fields)
        except (KeyError, TypeError) as wrong:
            raise WeightsError(
                f"config.json: the decoder's settings are damaged: {wrong}"
            ) from None
        _check(config)
        return config


def _check(config: DecoderConfig) -> None:
    """Refuse shapes that cannot be, before memory is asked for them."""
    for name in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
    ):
        value = getattr(config, name)
        if type(value) is not int or not 0 < value <= _MOST:
            raise WeightsError(f"config.json: {name} is {value!r}; it must be from 1 to {_MOST}")
    if config.num_attention_heads * config.head_dim > _MOST:
        raise WeightsError(f"config.json: {config.num_attention_heads} heads are too many")
    if not len(config.windows) == len(config.ropes) == config.num_hidden_layers:
        raise WeightsError("config.json: layer_types does not have one entry for each block")
    for window in config.windows:
        if window is not None and (type(window) is not int or window < 1):
            raise WeightsError(f"config.json: sliding_window is {window!r}")
    for rope in config.ropes:
        factors = rope and rope.scaling and rope.scaling.get("factors")
        if factors and len(factors) != config.head_dim // 2:
            raise WeightsError(f"config.json: {len(factors)} rope factors for {config.head_dim}")
    if config.num_attention_heads % config.num_key_value_heads:
        raise WeightsError(
            f"config.json: num_attention_heads {config.num_attention_heads} is not a multiple of "
            f"num_key_value_heads {config.num_key_value_heads}"
        )
    if config.ropes[0] is not None and config.head_dim % 2:
        raise WeightsError(f"config.json: head_dim {config.head_dim} is odd; rotary needs pairs")


def _refuse(config: Mapping[str, Any], family: str, **wanted: Any) -> None:
    """Refuse a checkpoint whose settings differ from the only ones computed here."""
    for name, value in wanted.items():
        if config.get(name, value) != value:
            raise WeightsError(
                f"config.json: {family} with {name}={config[name]!r} is not supported "
                f"(only {value!r} is computed exactly)"
            )


def _activation(name: str) -> Activation:
    if name not in _ACTIVATIONS:
        raise WeightsError(
            f"config.json: activation {name!r} is not supported; known: {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def _rope(parameters: Mapping[str, Any] | None, theta: float) -> Rope:
    """Rotary settings from either spelling: ``rope_scaling`` or, newer, ``rope_parameters``."""
    if not parameters:
        return Rope(theta)
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise WeightsError("config.json: rotating only a part of each head is not supported")
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    theta = float(parameters.get("rope_theta", theta))
    if kind == "default":
        return Rope(theta)
    if kind not in _SCALINGS:
        raise WeightsError(
            f"config.json: rope type {kind!r} is not supported; "
            f"known: default, {', '.join(_SCALINGS)}"
        )
    numbers = {name: _numbers(parameters[name]) for name in _SCALINGS[kind]}
    return Rope(theta, {"rope_type": kind} | numbers)


def _numbers(value: Any) -> float | list[float]:
    return [float(each) for each in value] if isinstance(value, list) else float(value)


def _gpt2(config: Mapping[str, Any]) -> DecoderConfig:
    _refuse(
        config,
        "gpt2",
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
    )
    hidden, heads, layers = config["n_embd"], config["n_head"], config["n_layer"]
    if hidden % heads:
        raise WeightsError(f"config.json: n_embd {hidden} is not a multiple of n_head {heads}")
    return DecoderConfig(
        model_type="gpt2",
        vocab_size=config["vocab_size"],
        hidden_size=hidden,
        intermediate_size=config.get("n_inner") or 4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_position_embeddings=config.get("n_positions") or config["n_ctx"],
        norm_eps=float(config.get("layer_norm_epsilon", 1e-5)),
        activation=_activation(config.get("activation_function", "gelu_new")),
        windows=(None,) * layers,
        ropes=(None,) * layers,
        attention_scale=(hidden // heads) ** -0.5,
        norm="layer",
        learned_positions=True,
        gated_mlp=False,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    )


def _llama(config: Mapping[str, Any], **differences: Any) -> DecoderConfig:
    """Llama, and the ground on which the families after it stand."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    layers = config["num_hidden_layers"]
    head_dim = config.get("head_dim") or hidden // heads
    rope = _rope(
        config.get("rope_parameters") or config.get("rope_scaling"),
        float(config.get("rope_theta") or 10_000.0),
    )
    bias = bool(config.get("attention_bias", False))
    fields: dict[str, Any] = {
        "model_type": config["model_type"],
        "vocab_size": config["vocab_size"],
        "hidden_size": hidden,
        "intermediate_size": config["intermediate_size"],
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": config.get("num_key_value_heads") or heads,
        "head_dim": head_dim,
        "max_position_embeddings": config.get("max_position_embeddings", 2048),
        "norm_eps": float(config.get("rms_norm_eps", 1e-6)),
        "activation": _activation(config.get("hidden_act", "silu")),
        "windows": (None,) * layers,
        "ropes": (rope,) * layers,
        "attention_scale": head_dim**-0.5,
        "qkv_bias": bias,
        "out_bias": bias,
        "mlp_bias": bool(config.get("mlp_bias", False)),
    }
    return DecoderConfig(**{**fields, **differences})


def _mistral(config: Mapping[str, Any]) -> DecoderConfig:
    windows = (config.get("sliding_window"),) * config["num_hidden_layers"]
    return _llama(config, windows=windows, qkv_bias=False, out_bias=False, mlp_bias=False)


def _qwen_windows(config: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Qwen slides a window only if told to, and then only in the blocks above the first few."""
    layers = config["num_hidden_layers"]
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    kinds = config.get("layer_types") or [
        "sliding_attention" if i >= config.get("max_window_layers", 28) else "full_attention"
        for i in range(layers)
    ]
    seen = {"sliding_attention": window, "full_attention": None}
    return tuple(seen[kind] for kind in kinds)


def _qwen2(config: Mapping[str, Any]) -> DecoderConfig:
    return _llama(
        config, windows=_qwen_windows(config), qkv_bias=True, out_bias=False, mlp_bias=False
    )


def _qwen3(config: Mapping[str, Any]) -> DecoderConfig:
    head_dim = config.get("head_dim") or 128
    return _llama(
        {**config, "head_dim": head_dim},
        windows=_qwen_windows(config),
        mlp_bias=False,
        qk_norm=True,
    )


def _gemma3(config: Mapping[str, Any]) -> DecoderConfig:
    """Gemma 3, text only: five blocks with a local window, then one that sees everything."""
    _refuse(
        config,
        "gemma3_text",
        attn_logit_softcapping=None,
        use_bidirectional_attention=False,
    )
    layers, head_dim = config["num_hidden_layers"], config.get("head_dim") or 256
    pattern = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6
    kinds = config.get("layer_types") or [
        "full_attention" if (i + 1) % pattern == 0 else "sliding_attention" for i in range(layers)
    ]
    both = config.get("rope_parameters") or {}
    ropes = {
        "full_attention": _rope(
            both.get("full_attention") or config.get("rope_scaling"),
            float(config.get("rope_theta") or 1_000_000.0),
        ),
        "sliding_attention": _rope(
            both.get("sliding_attention"), float(config.get("rope_local_base_freq") or 10_000.0)
        ),
    }
    window = config.get("sliding_window") or 4096
    return _llama(
        {
            **config,
            "head_dim": head_dim,
            "hidden_act": config.get("hidden_activation") or "gelu_pytorch_tanh",
            "rope_parameters": None,
            "rope_scaling": None,
        },
        windows=tuple(window if kind == "sliding_attention" else None for kind in kinds),
        ropes=tuple(ropes[kind] for kind in kinds),
        attention_scale=float(config.get("query_pre_attn_scalar") or 256) ** -0.5,
        mlp_bias=False,
        norm_offset=1.0,
        qk_norm=True,
        post_norms=True,
        embedding_scale=config["hidden_size"] ** 0.5,
    )


FAMILIES = {
    "gpt2": _gpt2,
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma3_text": _gemma3,
}
