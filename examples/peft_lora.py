"""LoRA by PEFT: the factors A and B of hidden layers are matrices of Muon, those of head and embedding go to AdamW.

Start it by:

    python examples/peft_lora.py
"""

from peft import LoraConfig, PeftModel, get_peft_model
from tiny_llama import Counting, tiny_llama
from torch.utils.data import DataLoader

from matfn.optim import Muon, Plan, plan


def main(steps: int = 20, rank: int = 4) -> tuple[PeftModel, Plan, list[float]]:
    """Train the adapters; the model, the plan and the losses."""
    targets = ["q_proj", "v_proj", "up_proj", "down_proj", "lm_head", "embed_tokens"]
    model = get_peft_model(tiny_llama(), LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets))
    batches = list(DataLoader(Counting(), batch_size=8))
    decided = plan(model, batches[0])  # the frozen base is left out
    # An update of A has norm lr, one of B has lr sqrt(m / rank). "moonlight" gives both the size of AdamW's.
    optimizer = Muon(decided, lr=5e-3, scale="moonlight", rest=dict(lr=5e-3))
    losses: list[float] = []
    for step, batch in enumerate(batches[:steps]):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        print(f"step {step}  loss {losses[-1]:.6f}")
    return model, decided, losses


if __name__ == "__main__":
    print(main()[1])
