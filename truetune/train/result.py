"""What a run leaves behind: the adapter in PEFT's layout (or the whole model), its tokenizer, settings and card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from truetune.engines.base import TrainEngine
from truetune.runs import durable
from truetune.runs.run import Run

TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
"""Files of the base that go with the result, so that it is prompted as it was trained."""

CARD = """---
{origin}library_name: {library}
tags: [truetune, {method}]
---
# {run}

{what} of `{base}`{revision}, trained with TrueTune.

| | |
|---|---|
| rows | {rows} trained, {validation} held out |
| supervised tokens | {supervised:,} |
| steps | {steps} |
| held-out loss | {before} before, {after} after |

```python
{usage}
```

The run's receipt chains the rows, the settings and these files, and `ft receipt verify` recomputes it. Its last link:

receipt: sha256:{digest}
"""

PEFT = """from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{folder}")"""

WHOLE = """from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{folder}")"""


def folder(run: Run, method: str) -> Path:
    """`adapter/`, or `model/` where all weights were trained."""
    return run.folder / ("model" if method == "full" else "adapter")


def write(run: Run, engine: TrainEngine, resolved: dict[str, Any], template: str | None) -> Path:
    """Put the trained result into the run, whole or not at all; returns its folder.

    `template` is the chat template that the rows were rendered with; it goes before the base's own.
    """
    target, base = folder(run, resolved["config"]["method"]["type"]), Path(resolved["model"]["folder"])

    def fill(aside: Path) -> None:
        engine.export(aside)
        for name in TOKENIZER:
            if (base / name).is_file():
                shutil.copyfile(base / name, aside / name)
        if template is not None:
            (aside / "chat_template.jinja").write_text(template, encoding="utf-8")
        settings = resolved["config"]["generation"]
        text = json.dumps(settings | {"do_sample": settings["temperature"] > 0}, indent=2, sort_keys=True)
        (aside / "generation_config.json").write_text(text + "\n", encoding="utf-8")

    durable.place(target, fill, replace=True)
    return target


def write_card(run: Run, target: Path, resolved: dict[str, Any], receipts: dict[str, Any], digest: str) -> None:
    """The model card, with the digest of the last receipt."""
    method, name = resolved["config"]["method"]["type"], resolved["model"]["name"]
    revision = resolved["model"]["revision"]
    full, data = method == "full", receipts["data"]
    hub = resolved["model"]["kind"] == "hub"
    usage = (WHOLE if full else PEFT).format(base=name if hub else resolved["model"]["folder"], folder=target.name)
    measured = receipts.get("eval", {"base": {"loss": None}, "tuned": {"loss": None}})
    text = CARD.format(
        base=name,
        origin=f"base_model: {name}\n" if hub else "",
        library="transformers" if full else "peft",
        method=method,
        run=run.id,
        what="A full fine-tune" if full else "A LoRA adapter",
        revision=f" at {revision}" if revision else "",
        rows=data["rows"]["train"],
        validation=data["rows"]["validation"],
        supervised=receipts["train"]["supervised"]["counted"],
        steps=receipts["train"]["steps"],
        before=shown(measured["base"]["loss"]),
        after=shown(measured["tuned"]["loss"]),
        usage=usage,
        digest=digest,
    )
    durable.write(target / "README.md", text.encode())


def shown(loss: float | None) -> str:
    return "not measured" if loss is None else f"{loss:.3f}"
