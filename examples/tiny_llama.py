"""The model and the data of the examples for transformers, Accelerate and PEFT: a small Llama that learns to count."""

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY, LENGTH = 64, 16


def tiny_llama(seed: int = 0) -> LlamaForCausalLM:
    """Two layers of width 32, made from a config: nothing is downloaded."""
    torch.manual_seed(seed)
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=LENGTH, **sizes))


class Counting(Dataset[dict[str, Tensor]]):
    """Rows that count upwards in steps of 1 to 3, modulo the vocabulary."""

    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = (index + (1 + index % 3) * torch.arange(LENGTH)) % VOCABULARY
        return {"input_ids": row, "labels": row}
