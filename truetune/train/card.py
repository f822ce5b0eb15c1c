"""The model card of a result: what it is, how to use it, what it was made from, and what it is not for.

Its front matter is what the Hub reads. Its last line names the digest of the run's last receipt, which `ft receipt
verify` looks for, so no other line may begin like it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from truetune.config import document
from truetune.data import objectives
from truetune.models import facts
from truetune.runs import durable, receipt
from truetune.runs.run import Run, is_run
from truetune.train import scorecard
from truetune.train.markdown import code, inline, table

LICENCE = ("license", "license_name", "license_link")
"""What the Hub knows of a licence; the other two go with `license: other`."""
LARGEST = 200_000
"""Bytes of a base's card that are looked at."""
FRONT = re.compile(r"\A---\r?\n(.*?\n)---\s*$", re.DOTALL | re.MULTILINE)
RECEIPT = re.compile(r"^receipt: sha256:([0-9a-f]{64})$", re.MULTILINE)
KINDS = {
    "full": "A full fine-tune of",
    "prefix": "A prefix for",
    "ptuning_v2": "A prefix for",
    "ptuning": "A prompt of virtual tokens for",
    "prompt": "A prompt of virtual tokens for",
    "ia3": "An IA³ adapter for",
}
"""What was made, by method; LoRA's family is not named here."""
SHOWN = ("truetune", "torch", "transformers", "tokenizers", "safetensors")
"""Libraries whose versions a reader may need."""

ADAPTED = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

base = {base}
folder = {folder}  # the path to it
tokenizer = AutoTokenizer.from_pretrained(folder)
"""
PACKED = """import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig

base = {base}
folder = {folder}  # the path to it
tokenizer = AutoTokenizer.from_pretrained(folder)
packing = {{{loading}}}  # the adapter was trained beside the packed base
"""
LOADED = "model = PeftModel.from_pretrained({model}, folder)\n"
GROWN = """model = {model}
rows = max(len(tokenizer), model.get_input_embeddings().num_embeddings)
model.resize_token_embeddings(rows, mean_resizing=False)  # the adapter brings the rows of the new tokens
model = PeftModel.from_pretrained(model, folder)
"""
WAYS = {
    4: '"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", '
    "bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32)",
    8: '"quantization_config": BitsAndBytesConfig(load_in_8bit=True)',
}
"""Bits -> transformers' arguments for a base that is packed so."""
WHOLE = """from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

folder = {folder}  # the path to it
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
"""
ASKED = """
messages = [{"role": "user", "content": "..."}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
"""
CONTINUED = """
inputs = tokenizer("...", return_tensors="pt")
"""
WRITTEN = """settings = GenerationConfig.from_pretrained(folder)  # how answers are drawn, and where they end
output = model.generate(**inputs, generation_config=settings)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""


def write(run: Run, target: Path, resolved: dict[str, Any], digest: str, parent: Path | None) -> None:
    """Put the card into the result's folder.

    digest   sha256 of the last receipt
    parent   folder of the adapter that the training went on from, if it did
    """
    receipts = receipt.read(run)
    sections = [
        front(resolved),
        [f"# {inline(run.id)}", "", f"{about(resolved)}, trained with TrueTune {version(run)}."],
        ["## Figures", "", *figures(receipts)],
        ["## Use", "", f"```python\n{usage(resolved, target.name)}\n```", "", *template(receipts)],
        ["## Where it comes from", "", *lineage(resolved, receipts, parent), "", libraries(run)],
        ["## What it is for, and what it is not", "", *limits(resolved, receipts)],
        [
            "## Receipt",
            "",
            "The run's receipt chains the rows, the settings and these files; `ft receipt verify` recomputes it. "
            "Its last link:",
            "",
            f"receipt: sha256:{digest}",
        ],
    ]
    text = "\n\n".join("\n".join(lines) for lines in sections)
    durable.write(target / "README.md", (text + "\n").encode("utf-8", "replace"))


def front(resolved: dict[str, Any]) -> list[str]:
    """The front matter. A base that is not on the hub has no name there."""
    method, full = resolved["config"]["method"]["type"], whole(resolved)
    on_hub = resolved["model"]["kind"] == "hub"
    fields: dict[str, Any] = {}
    if on_hub:
        fields |= {"base_model": resolved["model"]["name"], "base_model_relation": "finetune" if full else "adapter"}
    fields["library_name"] = "transformers" if full else "peft"
    fields |= licence(Path(resolved["model"]["folder"]))
    task = "text-classification" if scores(resolved) else "text-generation"
    fields |= {"pipeline_tag": task, "tags": ["truetune", method]}
    return ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()), "---"]


def licence(folder: Path) -> dict[str, str]:
    """What the card of a model says about its licence, as far as it can be read; empty where it says nothing."""
    try:
        with (folder / "README.md").open("rb") as file:
            text = file.read(LARGEST).decode("utf-8", "replace")
    except OSError:
        return {}
    found = FRONT.match(text)
    read = document.parse(found[1], "README.md") if found else document.Document()
    values = read.value if isinstance(read.value, dict) and not read.findings else {}
    said = {key: values[key] for key in LICENCE if isinstance(values.get(key), str) and values[key].isprintable()}
    return said if "license" in said else {}


def about(resolved: dict[str, Any]) -> str:
    """`A LoRA adapter for [base], at its revision`."""
    model = resolved["model"]
    what = KINDS.get(resolved["config"]["method"]["type"], "A LoRA adapter for")
    return f"{what} {code(model['name'])}" + (f" at {code(model['revision'])}" if model["revision"] else "")


def whole(resolved: dict[str, Any]) -> bool:
    return bool(resolved["config"]["method"]["type"] == "full")


def scores(resolved: dict[str, Any]) -> bool:
    """Whether it gives scores instead of words."""
    return objectives.of(resolved["config"]["training"]["objective"]).scores


def version(run: Run) -> str:
    return str(run.env.get("versions", {}).get("truetune", ""))


def figures(receipts: dict[str, Any]) -> list[str]:
    """What went in, and the held-out loss before and after."""
    data, trained, measured = receipts["data"], receipts["train"], receipts.get("eval")
    key, what = objectives.divisor(data["objective"])
    rows = [
        ("rows", f"{data['rows']['train']:,} trained, {data['rows']['validation']:,} held out"),
        (f"{what} that the loss has seen", f"{trained[key]['counted']:,} in {trained['steps']:,} steps"),
    ]
    if measured:
        for name in ("loss", "perplexity"):
            if name == "loss" or measured["tuned"][name] is not None:
                before, after = shown(measured["base"][name]), shown(measured["tuned"][name])
                rows.append((f"held-out {name}", f"{before} before, {after} after"))
    return table(("", ""), rows)


def shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:,.4g}"


def usage(resolved: dict[str, Any], folder: str) -> str:
    """Python that loads the result from `folder` and lets it write. Neither PEFT nor transformers reads an adapter's
    generation_config.json by itself."""
    if scores(resolved):
        return scorecard.usage(resolved, folder)
    asking = CONTINUED if resolved["config"]["training"]["objective"] == "pretrain" else ASKED
    ending = asking + WRITTEN
    model = resolved["model"]
    if whole(resolved):
        return WHOLE.format(folder=json.dumps(folder)) + ending
    base, extra = json.dumps(model["name"]), ""
    if model["kind"] == "starter":
        base, extra = 'str(files("truetune.models") / "starter")', "from importlib.resources import files\n\n"
    revision = f", revision={json.dumps(model['revision'])}" if model["revision"] else ""
    packed = resolved["config"]["method"]["type"] == "qlora"
    names = {"base": base, "folder": json.dumps(folder), "loading": loading(resolved) if packed else ""}
    called = f"AutoModelForCausalLM.from_pretrained(base{revision}{', **packing' if packed else ''})"
    loaded = (GROWN if resolved.get("new_tokens") else LOADED).format(model=called)
    return extra + (PACKED if packed else ADAPTED).format(**names) + loaded + ending


def loading(resolved: dict[str, Any]) -> str:
    """The arguments with which transformers packs the base as the training did; none where it is stored so."""
    stored = facts.read(Path(resolved["model"]["folder"])).bits
    return "" if stored else WAYS[resolved["config"]["method"]["bits"]]


def template(receipts: dict[str, Any]) -> list[str]:
    rendering = receipts["data"]["rendering"]
    if not rendering.get("template_sha256"):
        return ["It learned texts as they are, without a chat template."]
    name = f"{code(rendering['template'])} (sha256 `{rendering['template_sha256']}`)"
    return [
        f"Its prompts were rendered with {name}. It is the `chat_template.jinja` beside this card; prompt it in the "
        "same way."
    ]


def lineage(resolved: dict[str, Any], receipts: dict[str, Any], parent: Path | None) -> list[str]:
    """Everything it was made from, by sha256."""
    base, data = receipts["train"]["base"], receipts["data"]
    name = f"base {code(base['name'])}" + (f" at {code(base['revision'])}" if base["revision"] else "")
    rows = [(name, code(file), f"`{digest}`") for file, digest in sorted(base["files"].items())]
    if parent:
        rows += [(ancestor(parent), code(path.name), f"`{durable.digest(path)}`") for path in weights(parent)]
    for entry in data["inputs"]:
        rows.append((f"data, {entry['rows']:,} rows", code(Path(entry["path"]).name), f"`{entry['sha256']}`"))
    rows.append(("settings", "`resolved.json`", f"`{data['files']['resolved.json']}`"))
    return table(("what", "file", "sha256"), rows)


def weights(adapter: Path) -> list[Path]:
    return sorted(path for path in adapter.glob("adapter_*") if path.suffix in (".json", ".safetensors"))


def ancestor(adapter: Path) -> str:
    """An adapter that was trained on, by its run and receipt where these are known."""
    known = f"adapter of run {code(adapter.parent.name)}" if is_run(adapter.parent) else f"adapter {code(adapter.name)}"
    try:
        found = RECEIPT.search((adapter / "README.md").read_text("utf-8", "replace"))
    except OSError:
        found = None
    return known + (f", receipt `{found[1]}`" if found else "")


def libraries(run: Run) -> str:
    found = run.env.get("versions", {})
    return f"Made with {', '.join(f'{name} {found[name]}' for name in SHOWN if name in found)}."


def limits(resolved: dict[str, Any], receipts: dict[str, Any]) -> list[str]:
    """What may be expected of it, honestly."""
    held_out = receipts["data"]["rows"]["validation"]
    tested = (
        f"It was measured on {held_out:,} rows of the same kind, held out from them, and on nothing else"
        if receipts.get("eval")
        else "It was measured on nothing"
    )
    named = licence(Path(resolved["model"]["folder"])).get("license")
    terms = f"the licence of its base ({inline(named)})" if named else "the licence of its base"
    kind = (
        "It is for beginnings of texts like those it was trained on, to go on with them in their manner"
        if receipts["data"]["objective"] == "pretrain"
        else "It is for texts like the rows it was trained on, to score them as those were"
        if scores(resolved)
        else "It is for prompts like the rows it was trained on, to answer as they do"
    )
    return [
        f"{kind}. {tested}: not for truth, safety or fairness, nor for what it has forgotten of its base. What its "
        "base gets wrong, it can get wrong too; try it on your own prompts before others rely on it.",
        "",
        f"Whoever passes it on keeps to {terms}, and to the rights in the rows.",
    ]
