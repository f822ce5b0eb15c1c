"""EleutherAI's evaluation harness (`lm_eval[api]`, not one of ours) against `ft serve`, beside its own `hf` model and
beside transformers by hand, on four tasks of local rows: choices, endings, whole pages, and answers that are written.

    pip install "lm_eval[api]"
    python benchmarks/harness.py             # prints; exit 1 where figures differ
    python benchmarks/harness.py --write     # docs/evidence/serve-harness.json too

The server is asked as `local-completions` asks: token ids, several prompts in a request, `echo` and `logprobs`; for the
base, and for an adapter by its name. Every log-likelihood and every figure must be the same.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "shared"), str(ROOT / "tests" / "serve")]
os.environ["HF_HUB_OFFLINE"] = "1"

import lm_eval  # noqa: E402
import torch  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from under_load import process  # noqa: E402

from truetune.models.source import STARTER  # noqa: E402

EVIDENCE = ROOT / "docs" / "evidence" / "serve-harness.json"
ROWS = ROOT / "truetune" / "demo" / "support.jsonl"
LIBRARIES = ("lm_eval", "torch", "transformers", "peft", "fastapi", "uvicorn")
TOLERANCE = 1e-4
"""Of a log-likelihood per token, and of a figure relative to itself."""
LONGEST = 1022
"""Tokens that are predicted in one window: the starter's 1,024, less one before them and the one that is asked for
behind them."""
WAYS = {"batches of 4": {"batch_size": 4}, "batches of 3, 2 at once": {"batch_size": 3, "num_concurrent": 2}}

Json = dict[str, Any]
TASKS: dict[str, Json] = {
    "choices": {
        "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "choices",
        "doc_to_target": "right", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "endings": {
        "output_type": "loglikelihood", "doc_to_text": "{{question}}", "doc_to_target": "{{ending}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "pages": {
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{page}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "answers": {
        "output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "{{ending}}",
        "generation_kwargs": {"until": ["\n", "."], "max_gen_toks": 16},
        "metric_list": [{"metric": "exact_match"}],
    },
}  # fmt: skip


def written(folder: Path, count: int) -> TaskManager:
    """The tasks with their rows in a folder. Half of the endings are what the base itself would write, so that some are
    the likeliest ones; the last page is longer than the model's context."""
    talks = [json.loads(line)["messages"] for line in ROWS.read_text().splitlines()]
    pairs = [(talk[0]["content"], " " + talk[1]["content"]) for talk in talks][: 2 * count]
    answers = [answer for _, answer in pairs]
    begun = [(question + answer[:30].rstrip(), answer) for question, answer in pairs[:count]]
    likely = greedy([text for text, _ in begun])
    rows: dict[str, list[Json]] = {
        "choices": [
            {"question": question, "choices": [answers[(at + step) % len(answers)] for step in (0, 2, 5)], "right": 0}
            for at, (question, _) in enumerate(pairs[:count])
        ],
        "endings": [
            {"question": text, "ending": (likely[at] if at % 2 else "") or answer[30:90]}
            for at, (text, answer) in enumerate(begun)
        ],
        "pages": [{"page": "\n".join(answers[at : at + 3]).strip()} for at in range(0, count, 2)]
        + [{"page": "\n".join(question + answer for question, answer in pairs * 20)[:6000]}],
        "answers": [{"question": question, "ending": answer} for question, answer in pairs[:count]],
    }
    for name, task in TASKS.items():
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
        place = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}, "test_split": "test"}
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name} | place | task))
    return TaskManager(include_path=str(folder), include_defaults=False)


def greedy(prompts: Iterable[str]) -> list[str]:
    model, encode = AutoModelForCausalLM.from_pretrained(STARTER, dtype=torch.float32), tokens()
    found = []
    for prompt in prompts:
        ids = encode(prompt, return_tensors="pt")
        grown = model.generate(**ids, max_new_tokens=5, do_sample=False)
        found.append(encode.decode(grown[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
    return found


def tokens() -> Any:
    return AutoTokenizer.from_pretrained(STARTER)


def evaluated(tasks: TaskManager, model: str, arguments: Json, batch: int = 4) -> Json:
    """What the harness says of a model: figures by task, and each log-likelihood or text."""
    found = lm_eval.simple_evaluate(
        model, model_args=arguments, tasks=[*TASKS], task_manager=tasks, batch_size=batch, device="cpu",
        bootstrap_iters=0, log_samples=True,
    )  # fmt: skip
    assert found
    named = {
        f"{task} {key.partition(',')[0]}": value
        for task, figures in found["results"].items()
        for key, value in figures.items()
        if isinstance(value, float) and "stderr" not in key
    }
    return {"figures": named, "samples": found["samples"]}


def answered(found: Json) -> dict[str, list[Any]]:
    """Per task what came back for each request, in order: (log-likelihood, whether it is the likeliest), or a text."""
    return {
        task: [
            flat(response)
            for sample in sorted(samples, key=lambda each: each["doc_id"])
            for response in sample["resps"]
        ]
        for task, samples in found["samples"].items()
    }


def flat(response: list[Any]) -> Any:
    (only,) = response
    return (float(only), None) if isinstance(only, float | int) else tuple(only) if isinstance(only, list) else only


def by_hand(found: Json, adapter: Path | None) -> tuple[dict[str, list[Any]], dict[str, list[int]]]:
    """The log-likelihoods by a plain forward of transformers (with PEFT's adapter), and of how many tokens each is."""
    model = AutoModelForCausalLM.from_pretrained(STARTER, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter) if adapter else model
    encode, sums, lengths = tokens(), dict[str, list[Any]](), dict[str, list[int]]()
    for task in ("choices", "endings", "pages"):
        sums[task], lengths[task] = [], []
        for sample in sorted(found["samples"][task], key=lambda each: each["doc_id"]):
            for asked in sample["arguments"]:
                total, likeliest, length = 0.0, True, 0
                for before, after in windows(encode, *asked):
                    values, best = scored(model, before, after)
                    total, likeliest, length = total + values, likeliest and best, length + len(after)
                sums[task].append((total, None if task == "pages" else likeliest))
                lengths[task].append(length)
    return sums, lengths


def windows(encode: Any, *asked: str) -> Iterator[tuple[list[int], list[int]]]:
    """(what stands before, what is predicted). A question's last spaces belong to the ending; a page is cut into
    windows, the last of which looks back as far as there is room."""
    if len(asked) == 2:
        question, ending = asked
        kept = question.rstrip()
        before, whole = encode(kept)["input_ids"], encode(question + ending)["input_ids"]
        yield before, whole[len(before) :]
        return
    ids = [encode.eos_token_id, *encode(asked[0])["input_ids"]]
    for start in range(1, len(ids), LONGEST):
        end = min(start + LONGEST, len(ids))
        yield ids[max(0, end - LONGEST - 1) : start], ids[start:end]


def scored(model: Any, before: list[int], after: list[int]) -> tuple[float, bool]:
    """The log-likelihood of `after`, and whether each of its tokens is the likeliest."""
    ids = torch.tensor([before + after])
    with torch.no_grad():
        logits = model(input_ids=ids[:, :-1]).logits[0, len(before) - 1 :].log_softmax(-1)
    wanted = ids[0, len(before) :]
    return float(logits.gather(1, wanted[:, None]).sum()), bool((logits.argmax(-1) == wanted).all())


def compared(found: Json, other: dict[str, list[Any]], lengths: dict[str, list[int]]) -> Json:
    """How far what came back is from another's."""
    ours = answered(found)
    apart, differing, count = 0.0, 0, 0
    for task, theirs in other.items():
        for place, (one, two) in enumerate(zip(ours[task], theirs, strict=True)):
            count += 1
            if isinstance(one, str):
                differing += one != two
            else:
                apart = max(apart, abs(one[0] - two[0]) / lengths[task][place])
                differing += one[1] != two[1]
    return {"requests": count, "largest_difference_per_token": apart, "other_texts_or_flags": differing}


def made(place: Path) -> Path:
    """An adapter by PEFT, on every linear layer, that changes most answers and magnifies no rounding: `served.made` is
    so coarse that transformers in float32 is 0.004 from itself in float64."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(STARTER, dtype=torch.float32)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned = get_peft_model(model, config)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.02)
    tuned.save_pretrained(place)
    return place


def compare(folder: Path, count: int) -> Json:
    """All of it: by model (the base, an adapter) and way of asking."""
    tasks = written(folder, count)
    adapter = made(folder / "support")
    found: Json = {}
    with process(folder / "server", "starter", str(adapter)) as server:
        for name, place in (("starter", None), ("support", adapter)):
            more = {"peft": str(place)} if place else {}
            local = {"pretrained": str(STARTER), "dtype": "float32", "max_length": LONGEST, **more}
            theirs = evaluated(tasks, "hf", local)
            hand, lengths = by_hand(theirs, place)
            found[name] = {"figures": {"hf": theirs["figures"]}, "from hf": {}, "from transformers by hand": {}}
            for way, options in WAYS.items():
                asked = {
                    "model": name, "base_url": f"{server.url}/v1/completions", "tokenizer": str(STARTER),
                    "max_length": LONGEST + 2, "num_concurrent": options.get("num_concurrent", 1),
                }  # fmt: skip
                ours = evaluated(tasks, "local-completions", asked, options["batch_size"])
                found[name]["figures"][way] = ours["figures"]
                found[name]["from hf"][way] = compared(ours, answered(theirs), lengths)
                found[name]["from transformers by hand"][way] = compared(ours, hand, lengths)
    return found


def wrong(found: Json) -> list[str]:
    """What differs by more than it may."""
    bad = []
    for name, each in found.items():
        for other in ("from hf", "from transformers by hand"):
            for way, difference in each[other].items():
                if difference["largest_difference_per_token"] > TOLERANCE or difference["other_texts_or_flags"]:
                    bad.append(f"{name}, {way}, {other}: {difference}")
        for way in WAYS:
            for figure, value in each["figures"]["hf"].items():
                ours = each["figures"][way][figure]
                if abs(ours - value) > TOLERANCE * abs(value):
                    bad.append(f"{name}, {way}: {figure} is {ours}, and {value} by hf")
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40, help="of each task")
    parser.add_argument("--write", action="store_true", help=f"write {EVIDENCE.relative_to(ROOT)}")
    given = parser.parse_args()
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = folder
        found = compare(Path(folder), given.rows)
    body = {
        "command": " ".join(["python", "benchmarks/harness.py", *sys.argv[1:]]),
        "commit": head.stdout.strip(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "rows": given.rows,
        "tolerance": TOLERANCE,
        "models": found,
        "wrong": wrong(found),
    }
    print(json.dumps(body, indent=2))
    if given.write:
        EVIDENCE.write_text(json.dumps(body, indent=2) + "\n")
    return len(body["wrong"]) and 1


if __name__ == "__main__":
    sys.exit(main())
