"""Measure what `ft demo` teaches the starter, with three seeds, and write docs/evidence/starter.json.

    python scripts/starter/measure.py

The demo's own training is run as it stands; then the questions that no row asks are answered greedily, by transformers
and PEFT, before and after.
"""

from __future__ import annotations

import json
import platform
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import truetune as ft
from truetune import demo
from truetune.models import source

ROOT = Path(__file__).parents[2]
EVIDENCE = ROOT / "docs" / "evidence" / "starter.json"
SEEDS = (42, 1, 2)
ASKED = demo.paraphrases()


def answers(adapter: Path | None = None) -> list[str]:
    """The starter's greedy answers to the paraphrases, with an adapter or without."""
    model: Any = AutoModelForCausalLM.from_pretrained(source.STARTER, dtype=torch.float32, local_files_only=True)
    if adapter:
        model = PeftModel.from_pretrained(model, str(adapter))
    tokenizer = AutoTokenizer.from_pretrained(source.STARTER, local_files_only=True, padding_side="left")
    asked = [[{"role": "user", "content": paraphrase.question}] for paraphrase in ASKED]
    prompts = tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    ids, mask = prompts["input_ids"], prompts["attention_mask"]
    made = model.eval().generate(input_ids=ids, attention_mask=mask, max_new_tokens=64, do_sample=False)
    return list(tokenizer.batch_decode(made[:, ids.shape[1] :], skip_special_tokens=True))


def trained(seed: int, folder: Path) -> dict[str, Any]:
    """The demo's training with this seed: its losses, its seconds, and how many answers state the fact."""
    settings = [f"training.seed={seed}", f"output.dir={folder}", "evaluation.samples=0"]
    run = ft.train(str(demo.FOLDER / "train.yml"), overrides=settings)
    given = answers(run.adapter)
    missed = {
        paraphrase.question: answer.strip()
        for paraphrase, answer in zip(ASKED, given, strict=True)
        if not demo.states(answer, paraphrase.must)
    }
    kept = ("steps", "base_loss", "eval_loss", "seconds")
    figures = {name: run.figures[name] for name in kept}
    return {"seed": seed, **figures, "right": demo.score(given, ASKED), "missed": missed}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = [trained(seed, Path(folder) / str(seed)) for seed in SEEDS]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    evidence = {
        "command": "python scripts/starter/measure.py",
        "commit": commit.stdout.strip(),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")}
        | {"python": platform.python_version()},
        "threads": torch.get_num_threads(),
        "questions": len(ASKED),
        "right_before_training": demo.score(answers(), ASKED),
        "runs": runs,
    }
    EVIDENCE.parent.mkdir(exist_ok=True)
    EVIDENCE.write_text(json.dumps(evidence, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps([{name: run[name] for name in ("seed", "right", "eval_loss", "seconds")} for run in runs]))


if __name__ == "__main__":
    main()
