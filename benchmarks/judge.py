"""One judge for all contenders: PEFT and transformers load each adapter and measure its loss on rows that nobody saw.

    python benchmarks/judge.py FOLDER ADAPTER …

Prints the mean loss per supervised token of the base and of each adapter; one row at a time, nothing padded or packed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def examples(folder: Path) -> list[tuple[Any, Any]]:
    """(ids, where the loss is) of the held-out rows, as transformers' own template renders them."""
    import torch
    from transformers import AutoTokenizer

    tokenizer, found = AutoTokenizer.from_pretrained(folder / "model"), []
    for line in (folder / "held_out.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "text" in row:
            ids, begin = tokenizer(row["text"])["input_ids"], 1
        else:
            turns = row["messages"]
            ids = tokenizer.apply_chat_template(turns, return_dict=False)
            begin = len(tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False))
        found.append((torch.tensor([ids]), torch.arange(len(ids)) >= begin))
    return found


def loss(model: Any, rows: list[tuple[Any, Any]]) -> float:
    import torch

    total, count = 0.0, 0
    with torch.no_grad():
        for ids, supervised in rows:
            hidden = model(input_ids=ids).logits[0, :-1].float()
            losses = torch.nn.functional.cross_entropy(hidden, ids[0, 1:], reduction="none")
            total, count = total + float(losses[supervised[1:]].sum()), count + int(supervised[1:].sum())
    return total / count


def main() -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder, names = Path(sys.argv[1]), sys.argv[2:]
    rows, base = examples(folder), AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    found = {"base": loss(base, rows)}
    for name in names:
        model = PeftModel.from_pretrained(base, folder / name)
        found[name] = loss(model, rows)
        base = model.unload()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
