"""What `ft demo` has to teach: most questions that no row asks are answered with the right fact, with any seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import truetune as ft
from truetune import demo
from truetune.models import source

ASKED = demo.paraphrases()
BEFORE, AFTER, LOSS = 0.1, 0.8, 0.5


def answers(adapter: Path | None) -> list[str]:
    """Greedy answers to the paraphrases, by transformers and PEFT."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

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


@pytest.mark.slow
def test_before_training_no_fact_is_known() -> None:
    assert demo.score(answers(None), ASKED) <= BEFORE * len(ASKED)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [42, 1, 2])
def test_facts_are_learned_whatever_the_wording(tmp_path: Path, seed: int) -> None:
    settings = [f"training.seed={seed}", f"output.dir={tmp_path / 'run'}", "evaluation.samples=0"]
    run = ft.train(str(demo.FOLDER / "train.yml"), overrides=settings)
    assert run.figures["eval_loss"] <= LOSS * run.figures["base_loss"]
    given = answers(run.adapter)
    missed = [
        f"{paraphrase.question} → {answer}"
        for paraphrase, answer in zip(ASKED, given, strict=True)
        if not demo.states(answer, paraphrase.must)
    ]
    assert len(ASKED) - len(missed) >= AFTER * len(ASKED), "\n".join(missed)
