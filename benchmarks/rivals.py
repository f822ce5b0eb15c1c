"""One run of TRL's SFTTrainer on a folder that `shapes.make` has written, as a user would write it: read the rows,
tokenise, train LoRA on all linear layers, save the adapter. Started by `train.py` in a process of its own.

    python benchmarks/rivals.py FOLDER VARIANT [PACKS]

VARIANT is `trl` (padded), `trl-checkpointing` (padded, recomputing activations: TRL's default) or `trl-packed`
(best-fit to 1,024 tokens; PACKS of them are a step, one at a time, which needs the least memory). Two things are not
a user's: the rows stand in the order in which TrueTune takes them, and the adapter starts where TrueTune's starts, so
that losses can be compared step by step.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

VARIANTS = ("trl", "trl-checkpointing", "trl-packed")


def main() -> None:
    folder, variant, packs = Path(sys.argv[1]), sys.argv[2], int((*sys.argv, "1")[3])
    settings = json.loads((folder / "train.yml").read_text())

    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    times: dict[str, list[float]] = {"begin": [], "end": []}

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            times["begin"].append(time.time())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            times["end"].append(time.time())

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    training, packed = settings["training"], variant == "trl-packed"
    output = folder / variant
    arguments = SFTConfig(
        output_dir=str(output), use_cpu=True, bf16=False, num_train_epochs=training["epochs"],
        per_device_train_batch_size=1 if packed else training["batch_size"],
        gradient_accumulation_steps=packs if packed else 1, learning_rate=training["learning_rate"],
        lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0, optim="adamw_torch",
        max_length=settings["data"]["max_length"], packing=packed, packing_strategy="bfd",
        gradient_checkpointing=variant == "trl-checkpointing", save_strategy="no", report_to=[], logging_steps=1,
        disable_tqdm=True, seed=training["seed"],
    )  # fmt: skip
    method = settings["method"]
    lora = LoraConfig(
        r=method["r"], lora_alpha=method["alpha"], lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = InOrder(
        model=AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        args=arguments, peft_config=lora, callbacks=[Clock()],
        train_dataset=load_dataset("json", data_files=str(folder / "ordered.jsonl"), split="train"),
    )  # fmt: skip
    begin_as_ours(trainer.model, training["seed"])
    trainer.train()
    trainer.save_model()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    print(json.dumps(times | {"losses": losses, "grad_norms": norms}))


def begin_as_ours(model: Any, seed: int) -> None:
    """A as TrueTune draws it; B is 0 with both."""
    import torch

    from truetune.engines import adapter

    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            module = name.removeprefix("base_model.model.").partition(".lora_A.")[0]
            parameter.data.copy_(torch.from_numpy(adapter.start(module, *parameter.shape, seed)))


if __name__ == "__main__":
    main()
