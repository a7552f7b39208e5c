"""Small models of every class of transformers, and an example batch for each."""

import contextlib
import inspect
import re
import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["class_names", "examples", "limited", "small_models"]

# {pattern of an attribute of a configuration: its small value}.
_SMALL = {
    r"hidden_size|d_model|n_embd|embed_dim|dim|model_dim|hidden_dim|encoder_hidden_size|decoder_hidden_size"
    r"|d_embed|embedding_size|word_embed_proj_dim|width|emb_dim|embed_dims": 32,
    r"(num_)?(hidden_)?layers|n_layers?|num_(encoder|decoder)_layers|(encoder|decoder)_layers|num_blocks|depth": 2,
    r"num_(attention_)?heads|n_heads?|(encoder|decoder)_attention_heads|num_(encoder|decoder)_attention_heads": 4,
    r"num_key_value_heads|n_kv_heads|multi_query_group_num": 2,
    r"intermediate_size|ffn_dim|d_ff|d_inner|n_inner|(encoder|decoder)_ffn_dim|ffn_hidden_size|mlp_dim"
    r"|moe_intermediate_size|shared_expert_intermediate_size|dim_feedforward": 48,
    r"head_dim|d_kv|kv_channels|attention_head_dim|qk_(rope|nope)_head_dim|v_head_dim": 8,
    r"(q|kv)_lora_rank": 16,
    r"vocab_size|text_vocab_size": 120,
    r"num_(local_)?experts|n_routed_experts|moe_num_experts": 4,
    r"num_experts_per_tok|num_selected_experts|moe_topk|moe_k|n_group|topk_group": 2,
    r"max_position_embeddings|n_positions": 64,
    r"image_size": 64,
    r"num_queries": 6,
}


def class_names() -> list[str]:
    """The names of all classes in the tables of transformers' Auto classes, sorted."""
    from transformers.models.auto import modeling_auto

    found: set[str] = set()
    for table in dir(modeling_auto):
        if table.startswith("MODEL_") and table.endswith("NAMES"):
            for names in getattr(modeling_auto, table).values():
                found |= {names} if isinstance(names, str) else set(names)
    return sorted(found)


def small_models(name: str) -> Iterator[nn.Module]:
    """A model of the class with small sizes on the CPU, then one with few layers of default width on meta.

    The second one serves classes whose sizes must fit each other, so that small ones cannot be set one by one.
    """
    import transformers

    cls = getattr(transformers, name)
    with contextlib.suppress(Exception):
        torch.manual_seed(0)
        config = cls.config_class()
        _shrink(config)
        yield cls(config).eval()
    config = cls.config_class()
    _shrink(config, only=r"(num_)?(hidden_)?layers|n_layers?|(encoder|decoder)_layers|num_hidden_layers|num_experts")
    with torch.device("meta"):
        yield cls(config).to(torch.bfloat16).eval()


def _shrink(config: Any, only: str = "") -> None:
    if getattr(config, "use_timm_backbone", False) or "Timm" in type(getattr(config, "backbone_config", None)).__name__:
        import transformers

        stages = ["stage1", "stage2", "stage3", "stage4"]
        config.use_timm_backbone, config.backbone, config.backbone_kwargs = False, None, None
        config.backbone_config = transformers.ResNetConfig(out_features=stages, depths=[1, 1, 1, 1])
    staged = any(
        isinstance(getattr(config, key, None), list | tuple) for key in ("depths", "num_heads", "hidden_sizes")
    )
    for key, value in list(vars(config).items()):
        if key == "depths" and isinstance(value, list | tuple):
            setattr(config, key, [1] * len(value))
        if hasattr(value, "to_dict"):
            _shrink(value, only)
        if only and not re.fullmatch(only, key):
            continue
        if key.endswith("_token_id") and isinstance(value, int) and value > 2:
            setattr(config, key, 2)
        if key == "layer_types" and isinstance(value, list):
            setattr(config, key, value[:2])
        small = next((size for pattern, size in _SMALL.items() if re.fullmatch(pattern, key)), None)
        small = 4 if key == "num_key_value_heads" and hasattr(config, "kv_lora_rank") else small
        if (
            small is not None
            and not staged
            and isinstance(value, int)
            and not isinstance(value, bool)
            and value > small
        ):
            with contextlib.suppress(Exception):
                setattr(config, key, small)
    if not only and getattr(config, "pad_token_id", 0) is None:
        with contextlib.suppress(Exception):
            config.pad_token_id = 0


def examples(model: Any) -> Iterator[dict[str, Tensor]]:
    """Sets of keyword arguments to try, the fullest first."""
    takes = inspect.signature(model.forward).parameters
    like = next(param for param in model.parameters() if param.is_floating_point())

    def to(x: Tensor) -> Tensor:
        return x.to(like.device, like.dtype if x.is_floating_point() else x.dtype)

    made = {key: to(value) for key, value in _inputs(model).items() if key in takes}
    every = {key: value for key, value in made.items() if key != "inputs_embeds"}
    if "MultipleChoice" in type(model).__name__:
        chosen = {key: x for key, x in every.items() if key in ("input_ids", "bbox")}
        yield {key: x[:, None].expand(2, 3, *x.shape[1:]).contiguous() for key, x in chosen.items()}
    text = {key: every[key] for key in ("input_ids", "decoder_input_ids", "bbox") if key in every}
    for chosen in (every, text, {k: v for k, v in text.items() if k == "input_ids"}):
        if chosen:
            yield chosen
    for key in ("pixel_values", "input_values", "input_features", "inputs_embeds"):
        if key in made:
            yield {key: made[key]}
            yield {key: made[key], **{k: v for k, v in text.items() if k == "decoder_input_ids"}}
    for shape in ((2, 3, 64, 64), (2, 3, 224, 224), (2, 4, 3, 64, 64), (2, 16, 3, 224, 224)):
        if "pixel_values" in takes:
            yield {"pixel_values": to(torch.randn(shape))}


def _inputs(model: Any) -> dict[str, Tensor]:
    config = model.config
    inner = config.get_text_config() if hasattr(config, "get_text_config") else config
    vocabulary = min(getattr(inner, "vocab_size", 100) or 100, 100)
    vision = getattr(config, "vision_config", None) or config
    size = getattr(vision, "image_size", None) or 64
    height, width = size if isinstance(size, list | tuple) else (size, size)
    channels = getattr(vision, "num_channels", 3) or 3
    mel = getattr(config, "num_mel_bins", None) or 80
    length = 2 * (getattr(config, "max_source_positions", None) or 50)
    ids = torch.arange(14).reshape(2, 7) % (vocabulary - 5) + 4
    end = getattr(inner, "eos_token_id", None)
    if isinstance(end, int) and end < vocabulary:
        ids[:, -1] = end  # some classifiers read the position of the last token
    generator = torch.Generator().manual_seed(0)
    frames = getattr(config, "num_frames", None)
    shape = (2, channels, height, width) if not frames else (2, frames, channels, height, width)
    audio = (2, 4000) if not hasattr(config, "frequency_stride") else (2, config.max_length, mel)
    return {
        "input_ids": ids,
        "decoder_input_ids": ids[:, :5],
        "pixel_values": torch.randn(shape, generator=generator),
        "input_values": torch.randn(audio, generator=generator),
        "input_features": torch.randn(2, mel, length, generator=generator),
        "bbox": torch.zeros(2, 7, 4, dtype=torch.long),
        "inputs_embeds": torch.randn(2, 7, getattr(inner, "hidden_size", 32) or 32, generator=generator),
    }


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after some seconds: some default sizes take minutes."""

    def stop(signum: int, frame: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
