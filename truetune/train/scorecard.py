"""How a result that gives scores is used: Python for its model card."""

from __future__ import annotations

import json
from typing import Any

ADAPTED = """import torch
{extra}from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

folder = {folder}  # the path to it
settings = AutoConfig.from_pretrained(folder)  # names the classes
base = AutoModelForSequenceClassification.from_pretrained({base}{revision}, config=settings)
model = PeftModel.from_pretrained(base, folder).eval()
"""
WHOLE = """import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = {folder}  # the path to it
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
"""
CLASS = """inputs = AutoTokenizer.from_pretrained(folder)("...", return_tensors="pt")
with torch.no_grad():
    scores = model(**inputs).logits[0]
print({{model.config.id2label[number]: float(share) for number, share in enumerate(scores.{shares})}})"""
REWARD = """tokenizer = AutoTokenizer.from_pretrained(folder)
messages = [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]
inputs = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
with torch.no_grad():
    print(float(model(**inputs).logits[0, 0]))"""


def usage(resolved: dict[str, Any], folder: str) -> str:
    """Loads the result from `folder` and asks it."""
    model, classes = resolved["model"], resolved.get("classes")
    base, extra = json.dumps(model["name"]), ""
    if model["kind"] == "starter":
        base, extra = 'str(files("truetune.models") / "starter")', "from importlib.resources import files\n"
    revision = f", revision={json.dumps(model['revision'])}" if model["revision"] else ""
    names = {"base": base, "extra": extra, "folder": json.dumps(folder), "revision": revision}
    loaded = (WHOLE if resolved["config"]["method"]["type"] == "full" else ADAPTED).format(**names)
    if not classes:
        return loaded + REWARD
    return loaded + CLASS.format(shares="sigmoid()" if classes["several"] else "softmax(0)")
