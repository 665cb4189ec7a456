"""Tiny configs for any architecture of transformers, from the fields of its config class.

A field is made small by its name: `hidden_size` becomes 64, `num_hidden_layers` 2. Nothing here is
written for one architecture, so a new one is covered as soon as transformers has it; a config that
comes out inconsistent fails in eager, and the sweep leaves that architecture out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

VOCABULARY = 128
WIDTH = 64
IMAGE = 64  # pixels
LARGEST = 6_000_000  # parameters
DEEPER = (2, 3, 4, 6)  # layers, where the kinds of layers that a config lists need more

Shrink = Callable[[Any], Any]


def at_most(limit: int) -> Shrink:
    return lambda value: min(value, limit)


def _as_ratio(values: list[int]) -> list[int]:
    """Widths of stages, in the same proportion, the least of them 16."""
    least = min(values)
    return [max(8, round(16 * v / least / 8) * 8) for v in values] if least > 16 else values


# the first rule whose pattern is the whole name of a field decides; a rule for ints also makes
# lists of them small, element by element
INTS: tuple[tuple[str, Shrink], ...] = (
    (r"(type|xpath|max_2d)_vocab_size|vocab_offset", at_most(4)),
    (r".*vocab(ulary)?_size.*|n_token|codebook_size|num_embeddings|bos_index", at_most(VOCABULARY)),
    (r"first_k_dense_replace", at_most(1)),
    (r"keypoint_decoder_dim", lambda v: v),
    (r".*(key_value|kv)_heads|kv_n_heads|index_n_heads|n_kv_heads", at_most(2)),
    (r"mamba_n_heads|mamba_num_heads|n_mamba_heads", at_most(8)),
    (r"(.*_)?n_group|topk_group|.*_n_groups", at_most(1)),
    (r".*heads?", at_most(4)),
    (r".*experts_per_tok(en)?|.*top_?k|moe_k|num_selected_experts", at_most(2)),
    (r"(.*_)?n?(um)?_?(routed|local|total)?_?experts", at_most(4)),
    (r"qk_(rope|nope)_head_dim|rotary_dim|.*rope_dim", at_most(8)),
    (r".*head_?dim|d_kv|v_head_dim|.*_d_head|.*dim_head", at_most(16)),
    (r".*_lora_rank|.*_rank", at_most(16)),
    (r".*(sliding|attention|local|swa)_window.*|local_radius", at_most(8)),
    (r"window_size", at_most(2)),
    (r".*(max|num|n)_(source_|target_)?position(_embedding)?s|max_seq_len|n_ctx", at_most(128)),
    (r"max_position_embeddings|max_source_positions|max_sequence_length", at_most(128)),
    (r"image_size|input_size|resolution|img_size", at_most(IMAGE)),
    (r"patch_size", lambda v: v if v <= 8 else 16),
    (r".*chunk_size|.*block_size|chunk_length|.*_chunk_length", at_most(16)),
    (r".*state_size|.*d_state|.*ssm_state.*", at_most(16)),
    (r"num_queries|.*num_query_tokens|num_latents|num_denoising|.*_latents", at_most(8)),
    (r".*(intermediate|ffn|ffw|inner|feedforward|d_ff|mlp).*(size|dim)|d_ff|dff|d_inner|n_inner",
     at_most(2 * WIDTH)),
    (r".*num_mel_bins|.*mels|feature_size|max_length|.*kernel.*|.*stride.*|.*ratios?", lambda v: v),
    (r".*(size|dims?|channels|units|filters|width|embd|d_model|hidden|features|embed|proj)s?",
     at_most(WIDTH)),
)  # fmt: skip
LISTS: tuple[tuple[str, Shrink], ...] = (
    (r".*depths?|num_block_repeats|.*num_layers|layers|.*_layers|num_blocks",
     lambda v: [min(x, 1) for x in v]),
    (r"(.*_)?conv_dim|tdnn_dim", lambda v: [min(x, 32) for x in v]),
    (r".*heads?", lambda v: [4 if x >= 4 else 2 if x >= 2 else 1 for x in v]),
    (r".*kernel.*|.*stride.*|.*ratios?|.*dilation.*|.*padding.*|.*rates?", lambda v: v),
    (r"(.*_)?(hidden_)?(sizes|dims?|channels|widths|embed_dims?|features)", _as_ratio),
)  # fmt: skip
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}


FEWER = r"num_(kv_shared|shared|residual|dense|mtp)_layers|.*feature_layers?|.*_layers_offset"
COUNT = r"(.*_)?num_(.*_)?layers|(.*_)?n_layers?|num_blocks|.*_layers|(.*_)?depth"


def shrunk(name: str, value: Any, layers: int = 2) -> Any:
    """A field's value, small. Booleans, floats and strings stay as they are."""
    if isinstance(value, bool) or not isinstance(value, (int, list, tuple)):
        return value
    if isinstance(value, int):
        if re.fullmatch(FEWER, name):
            return min(value, 1)
        if re.fullmatch(COUNT, name):
            return min(value, layers)
        rule = _first(INTS, name)
        return value if rule is None or value < 0 else rule(value)
    if not value or not all(type(x) is int for x in value):
        return value
    rule = _first(LISTS, name)
    if rule is None:
        return type(value)(shrunk(name, x) for x in value)
    return type(value)(rule(list(value)))


def _of_each_kind(values: Sequence[Any], count: int) -> Sequence[Any]:
    """So many elements, of as many kinds as there are, in their order."""
    kinds = [values.index(kind) for kind in dict.fromkeys(values)]
    others = [i for i in range(len(values)) if i not in kinds]
    kept = sorted([*kinds, *others][:count])
    return type(values)(values[i] for i in kept)  # type: ignore[call-arg]


def _first(rules: tuple[tuple[str, Shrink], ...], name: str) -> Shrink | None:
    return next((rule for pattern, rule in rules if re.fullmatch(pattern, name)), None)


# what the names do not tell, by model type
OTHERWISE: Mapping[str, Mapping[str, Any]] = {
    "zamba": {
        "num_hidden_layers": 3,
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
    },
    "superpoint": {"max_keypoints": 16},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"], "hybrid_layer_ids": [1]},
}


def config(cls: Any, layers: int = 2, given: Mapping[str, Any] | None = None) -> Any:
    """A small config of the class; `given` are values in place of its defaults."""
    values: dict[str, Any] = {}
    token = 10
    default_layers = getattr(cls, "num_hidden_layers", None)
    for field in fields(cls):
        value = field.default
        if value is MISSING and field.default_factory is not MISSING:
            value = field.default_factory()
        if given and field.name in given:
            value = given[field.name]
        if value is MISSING or value is None:
            continue
        if isinstance(value, (list, tuple)) and len(value) == default_layers:
            value = _of_each_kind(value, layers)
        if re.fullmatch(r".*token_(id|index|idx)|.*_token", field.name) and type(value) is int:
            token += 1
            small = SPECIAL.get(field.name, token)
        elif field.name in ("is_decoder", "use_cache"):
            small = False if field.name == "use_cache" else value
        else:
            small = shrunk(field.name, value, layers)
        values[field.name] = small
    for name, spec in getattr(cls, "sub_configs_defaults", {}).items():
        if spec.optional and values.get(name) is None:
            continue
        inner = spec.config_class
        if not hasattr(inner, "model_type") or not inner.model_type:
            inner = spec.get_config_class(spec.model_type)
        values[name] = config(inner, layers, spec.init_kwargs)
    if "kv_lora_rank" in values and "num_key_value_heads" in values:
        values["num_key_value_heads"] = values[
            "num_attention_heads"
        ]  # one latent makes all of them
    return cls(**{**values, **OTHERWISE.get(cls.model_type, {})})
