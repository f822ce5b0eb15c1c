"""What the tests that hold us against others share: rows, a course, an adapter of noise, and TRL's losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from truetune.config import Amount
from truetune.data.example import Example
from truetune.data.steps import Steps
from truetune.engines.torch import tiny
from truetune.engines.torch.engine import TorchEngine
from truetune.train.plan import Course, course


def counting(count: int = 64) -> list[Example]:
    """Sequences that count up by one, of mixed length: there is something to learn. The first third is a prompt."""
    rng, made = np.random.default_rng(3), []
    for row in range(count):
        size = int(rng.integers(6, 40))
        ids = (int(rng.integers(0, 100)) + np.arange(size)).astype(np.int32)
        weights = (np.arange(size) >= max(1, size // 3)).astype(np.float32)
        made.append(Example(ids, weights, row))
    return made


def cosine(rows: int, batch: int, steps: int, lr: float) -> Course:
    """So many steps over shuffled rows, a tenth of them warm-up."""
    settings: dict[str, Any] = {"learning_rate": lr, "scheduler": "cosine", "warmup": Amount(10, percent=True)}
    return course(Steps(rows, batch, seed=5), epochs=100, max_steps=steps, **settings)


def settings(path: Course, lr: float, batch: int, micro: int) -> dict[str, Any]:
    """TRL's for such a course, each batch in micro-batches."""
    return {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": batch // micro,
        "max_steps": path.total,
        "learning_rate": lr,
        "lr_scheduler_type": "cosine",
        "warmup_steps": path.warmup,
    }


def noise(engine: TorchEngine, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Make the engine's adapter one of noise, exported to `folder`: some ids [1, 24], and their logits [1, 24, V]."""
    generator = torch.Generator().manual_seed(1)
    for parameter in engine.parameters.values():
        parameter.data.normal_(std=0.1, generator=generator)
    folder.mkdir()
    engine.export(folder)
    ids = torch.randint(0, tiny.VOCAB, (1, 24), generator=generator)
    packed = {"segments": ((0, 24),)} if engine.forward.packs else {}
    with torch.no_grad():
        model = engine.model.eval()
        return ids, model(ids, position_ids=torch.arange(24)[None], use_cache=False, **packed).logits


def losses(
    trainer: type, config: type, model: Any, rows: list[dict[str, Any]], out: Path, **settings: Any
) -> list[float]:
    """The loss of each step of TRL's trainer, on rows of ids in their order."""
    from datasets import Dataset

    data, parts = Dataset.from_list(rows), []

    class Recorder(trainer):
        def _prepare_dataset(self, dataset, *args, **kwargs):
            return dataset

        def _get_train_sampler(self, *args, **kwargs):
            return torch.utils.data.SequentialSampler(data)

        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs).detach()
            parts.append(float(loss))
            return loss

    arguments = config(
        output_dir=str(out / "run"),
        max_grad_norm=1.0,
        optim="adamw_torch",
        max_length=None,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_steps=1000,
        **settings,
    )
    Recorder(model=model, args=arguments, train_dataset=data, processing_class=tokenizer()).train()
    size = arguments.gradient_accumulation_steps
    return [sum(parts[at : at + size]) for at in range(0, len(parts), size)]


def tokenizer() -> Any:
    """TRL wants a tokenizer to pad with; the rows are ids already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"t{i}": i for i in range(tiny.VOCAB)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="t0")), pad_token="t0", eos_token="t1"
    )
