"""The model zoo: architectures of transformers with random weights, made from a config.

    entry = TINY["gpt2"]
    model, batch = entry.build(), entry.batch()
    loss(model, batch).backward()

To add a model, add a line to TINY: a name, the class in transformers, a batch, and the options of
the config.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from roam.bench import batches
from roam.bench.batches import Batch, MakeBatch


@dataclass(frozen=True)
class Entry:
    """One model and one batch for it.

    Attributes:
        name: of the entry.
        model: the class in transformers.
        config: keyword arguments of its config class.
        make_batch: draws a batch from a generator.
        breaks: graph breaks of a compiled training step; 0 if the whole forward is one graph.
    """

    name: str
    model: str
    make_batch: MakeBatch
    config: Mapping[str, object] = field(default_factory=dict)
    breaks: int = 0

    def build(self) -> nn.Module:
        """Returns the model on the CPU, in training mode, with the same random weights always."""
        import transformers

        cls = getattr(transformers, self.model)
        torch.manual_seed(0)
        model = cls(cls.config_class(**self.config))
        if getattr(model, "loss_type", "") is None:
            # transformers takes this by default, with a warning, which would break the graph
            model.loss_type = "ForCausalLM"
        trained: nn.Module = model.train()
        return trained

    def build_in(self, dtype: torch.dtype) -> nn.Module:
        """Returns the model with weights of this dtype, which never exist in another."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            return self.build()
        finally:
            torch.set_default_dtype(before)

    def batch(self) -> Batch:
        return self.make_batch(torch.Generator().manual_seed(1))


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Returns the model's own loss if it has one, else the mean square of its main output."""
    return loss_of(model(**batch))


def loss_of(out: Mapping[str, Tensor]) -> Tensor:
    """Returns the loss in a model's output, or the mean square of its main part, a scalar."""
    if "loss" in out:
        return out["loss"]
    for name in ("logits", "logits_per_image", "last_hidden_state"):
        if name in out:
            return out[name].square().mean()
    raise ValueError(f"a model returns none of the known outputs: {list(out)}")


def _entry(
    name: str,
    model: str,
    make_batch: MakeBatch,
    base: Mapping[str, object] | None = None,
    breaks: int = 0,
    **config: object,
) -> Entry:
    return Entry(name, model, make_batch, {**(base or {}), **config}, breaks)


def _classifier(
    name: str,
    model: str,
    make_batch: MakeBatch,
    base: Mapping[str, object] | None = None,
    **config: object,
) -> Entry:
    # without it the first step writes it into the config, and the second compiles again
    config["problem_type"] = "single_label_classification"
    base = {**(base or {}), **config}
    return _entry(name, f"{model}ForImageClassification", make_batch, base)


def _table(*entries: Entry) -> dict[str, Entry]:
    return {e.name: e for e in entries}


# options that have the same names in the configs of most architectures
_ENCODER: dict[str, object] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 160,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_DECODER = {**_ENCODER, "use_cache": False}
_GROUPED = {**_DECODER, "num_key_value_heads": 2, "head_dim": 16}
_BART = {
    "vocab_size": 512,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
_GPT2 = {"use_cache": False, "bos_token_id": 1, "eos_token_id": 2}
_PATCHES = {
    "image_size": 64,
    "patch_size": 8,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_T5 = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "use_cache": False}
# Its feature extractor sets requires_grad inside the forward, which breaks the graph. Random masks
# and dropped layers are decided in Python, so each step would be another graph: they are off.
_WAV2VEC2 = {
    **_ENCODER,
    "conv_dim": [32, 32],
    "conv_stride": [5, 4],
    "conv_kernel": [10, 8],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
}

TINY: dict[str, Entry] = _table(
    _entry(
        "gpt2",
        "GPT2LMHeadModel",
        batches.text(),
        _GPT2,
        vocab_size=512,
        n_positions=128,
        n_embd=64,
        n_layer=2,
        n_head=4,
    ),
    _entry("gptneox", "GPTNeoXForCausalLM", batches.text(), _DECODER),
    _entry("opt", "OPTForCausalLM", batches.text(), _DECODER, ffn_dim=128, word_embed_proj_dim=64),
    _entry("bloom", "BloomForCausalLM", batches.text(), _DECODER, n_layer=2, n_head=4),
    _entry("llama", "LlamaForCausalLM", batches.text(), _GROUPED),
    _entry("mistral", "MistralForCausalLM", batches.text(), _GROUPED, sliding_window=32),
    _entry("qwen2", "Qwen2ForCausalLM", batches.text(), _GROUPED),
    _entry("qwen3", "Qwen3ForCausalLM", batches.text(), _GROUPED),
    _entry("gemma2", "Gemma2ForCausalLM", batches.text(), _GROUPED),
    _entry("phi", "PhiForCausalLM", batches.text(), _DECODER),
    _entry("falcon", "FalconForCausalLM", batches.text(), _DECODER),
    _entry("mixtral", "MixtralForCausalLM", batches.text(), _GROUPED, num_local_experts=4),
    _entry("mamba", "MambaForCausalLM", batches.text(seq=32), _DECODER, state_size=8),
    _entry("bert", "BertForMaskedLM", batches.text(), _ENCODER),
    _entry("roberta", "RobertaForMaskedLM", batches.text(), _ENCODER),
    _entry("albert", "AlbertForMaskedLM", batches.text(), _ENCODER, embedding_size=32),
    _entry("electra", "ElectraForMaskedLM", batches.text(), _ENCODER, embedding_size=32),
    _entry("debertav2", "DebertaV2ForMaskedLM", batches.text(), _ENCODER, relative_attention=True),
    _entry(
        "distilbert",
        "DistilBertForMaskedLM",
        batches.text(),
        vocab_size=512,
        dim=64,
        hidden_dim=128,
        n_layers=2,
        n_heads=4,
    ),
    _entry(
        "t5",
        "T5ForConditionalGeneration",
        batches.seq2seq(),
        _T5,
        vocab_size=512,
        decoder_start_token_id=0,
    ),
    _entry("bart", "BartForConditionalGeneration", batches.seq2seq(), _BART),
    _entry(
        "whisper",
        "WhisperForConditionalGeneration",
        batches.mel(),
        _BART,
        max_source_positions=100,
        max_target_positions=64,
    ),
    _classifier("vit", "ViT", batches.image(batch=4), _PATCHES),
    _classifier("deit", "DeiT", batches.image(batch=4), _PATCHES),
    _classifier(
        "swin",
        "Swin",
        batches.image(),
        image_size=64,
        embed_dim=32,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
    ),
    _classifier(
        "resnet",
        "ResNet",
        batches.image(),
        embedding_size=16,
        hidden_sizes=[32, 64],
        depths=[2, 2],
        layer_type="basic",
    ),
    _classifier("mobilenetv2", "MobileNetV2", batches.image(), depth_multiplier=0.35),
    _classifier(
        "efficientnet",
        "EfficientNet",
        batches.image(),
        width_coefficient=0.25,
        depth_coefficient=0.25,
        hidden_dim=320,
    ),
    _classifier(
        "convnext",
        "ConvNext",
        batches.image(),
        hidden_sizes=[16, 32],
        depths=[2, 2],
        num_stages=2,
        drop_path_rate=0.1,
    ),
    _entry("wav2vec2", "Wav2Vec2Model", batches.wave(), _WAV2VEC2, breaks=3),
    _entry(
        "clip",
        "CLIPModel",
        batches.image_and_text(),
        text_config=_ENCODER,
        vision_config=_PATCHES,
        projection_dim=32,
    ),
)


def gpt2(
    name: str, seq: int = 1024, batch: int = 1, dropout: float = 0.0, **shape: object
) -> Entry:
    """Returns a GPT-2 on `batch` sequences of `seq` tokens.

    shape: of the model, such as n_layer; by default that of GPT-2 small: 12 layers, 768 wide.
    """
    text = batches.text(batch, seq, vocab=50257)
    drop = {f"{where}_pdrop": dropout for where in ("attn", "embd", "resid")}
    config = {**_GPT2, "n_positions": max(seq, 1024), **drop, **shape}
    return _entry(name, "GPT2LMHeadModel", text, config)


_PHOTO = batches.image(batch=1, size=224, classes=1000)

FULL: dict[str, Entry] = _table(
    gpt2("gpt2-small"),
    gpt2("gpt2-small-dropout", dropout=0.1),
    gpt2("gpt2-small-128", seq=128),
    gpt2("gpt2-small-512", seq=512),
    _entry("bert-base", "BertForMaskedLM", batches.text(batch=1, seq=512, vocab=30522)),
    _classifier("vit-b-16", "ViT", _PHOTO, num_labels=1000),
    _classifier("resnet-50", "ResNet", _PHOTO, num_labels=1000),
    _classifier("mobilenet-v2", "MobileNetV2", _PHOTO, num_labels=1000),
    _classifier(
        "efficientnet-b0",
        "EfficientNet",
        _PHOTO,
        num_labels=1000,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        image_size=224,
        hidden_dim=1280,
        dropout_rate=0.2,
    ),
)


_BERT = {"num_attention_heads": 16, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

LARGE: dict[str, Entry] = _table(  # weights, gradients and states are most of their memory
    _entry(
        "bert-large",
        "BertForMaskedLM",
        batches.text(batch=1, seq=128, vocab=30522),
        _BERT,
        hidden_size=1024,
        num_hidden_layers=24,
        intermediate_size=4096,
    ),
    gpt2("gpt2-xl", seq=128, n_embd=1600, n_layer=48, n_head=25),
    gpt2("gpt-4.2b", seq=128, n_embd=3200, n_layer=33, n_head=25),
    _entry(
        "bert-4b",
        "BertForMaskedLM",
        batches.text(batch=1, seq=128, vocab=30522),
        _BERT,
        hidden_size=2560,
        num_hidden_layers=48,
        intermediate_size=10240,
    ),
)


def find(name: str) -> Entry:
    """Returns the entry of that name, from any table. Raises ValueError with the known names."""
    every = TINY | FULL | LARGE
    if name not in every:
        raise ValueError(f"the zoo has no {name!r}, only: {', '.join(every)}")
    return every[name]
