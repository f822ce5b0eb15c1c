"""`ft chat` on a trained run: one answer, lines, a conversation at a real terminal, and transformers as the oracle."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from real_ft import LIMIT, Ft
from real_terminal import Terminal

from truetune.models.source import STARTER

pytestmark = pytest.mark.slow

QUESTIONS = ["What does code 3 mean?", "Say hello.", "What is code 17?", "Why is the sky blue?"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Ft:
    """A folder with a finished run, and a model that has read a lot of code numbers."""
    ft = Ft(tmp_path_factory.mktemp("chat"))
    ft.rows(60)
    settings = {"learning_rate": 2e-3, "epochs": 4}
    ft.config(training=settings, evaluation={"samples": 1}, generation={"temperature": 0.0, "max_new_tokens": 40})
    said = ft("train", "train.yml", "-q")
    assert said.code == 0, said.err
    return ft


@pytest.fixture(scope="module")
def document(trained: Ft) -> dict[str, Any]:
    """The answer to the first question, with all that is said of it."""
    return trained("chat", "last", QUESTIONS[0], "--json").document


def stdin(ft: Ft, text: bytes, *args: str) -> subprocess.CompletedProcess[bytes]:
    line = [sys.executable, "-m", "truetune", *args]
    return subprocess.run(line, cwd=ft.folder, env=ft.env, input=text, capture_output=True, timeout=LIMIT)


def test_one_answer(trained: Ft, document: dict[str, Any]) -> None:
    plain = trained("test", "last", QUESTIONS[0])
    assert plain.code == 0, plain.err
    assert plain.out == document["answer"] + "\n"
    assert document["answer"].startswith("Code ")
    assert (document["reason"], document["seed"]) == ("stop", None)
    assert document["tokens"] > 5 and document["seconds"] > 0
    assert document["subject"]["run"] == trained.run().name
    assert document["subject"]["asked"] == "tuned"
    assert trained.run().name in plain.err


def test_the_same_seed_gives_the_same_answer(trained: Ft) -> None:
    hot = ("chat", "last", QUESTIONS[1], "--temperature", "1.5", "--json")
    first = trained(*hot).document
    assert trained(*hot, "--seed", str(first["seed"])).document["answer"] == first["answer"]
    assert trained(*hot, "--seed", str(first["seed"] + 1)).document["answer"] != first["answer"]


def test_each_line_is_a_question_of_its_own(trained: Ft, document: dict[str, Any]) -> None:
    done = stdin(trained, "\n".join([*QUESTIONS, "", QUESTIONS[0]]).encode(), "chat", "last", "-q", "--json")
    answers = json.loads(done.stdout)["answers"]
    assert [answer["prompt"] for answer in answers] == [*QUESTIONS, QUESTIONS[0]]
    assert answers[0]["answer"] == answers[-1]["answer"] == document["answer"]
    one = stdin(trained, QUESTIONS[0].encode() + b"\n", "chat", "last", "-")
    assert one.stdout.decode() == document["answer"] + "\n", one.stderr
    bad = stdin(trained, b"Hello\n\xff\n", "chat", "last", "--json")
    error = json.loads(bad.stdout)["error"]
    assert (bad.returncode, error["code"], error["where"]) == (2, "generation.not_text", "line 2")


def test_own_rows_before_and_after(trained: Ft) -> None:
    said = trained("chat", "last", "--demo", "--json")
    assert said.code == 0, said.out
    answers = said.document["answers"]
    rows = [json.loads(line) for line in (trained.folder / "rows.jsonl").open()]
    asked = {row["prompt"]: row["completion"] for row in rows}
    assert len(answers) == 8
    assert all(asked[answer["question"]] == answer["row"] for answer in answers)
    assert all(answer["before"] != answer["after"] for answer in answers)


ORACLE = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
model = PeftModel.from_pretrained(model, adapter).eval()
encode = AutoTokenizer.from_pretrained(adapter)
found = []
for question in json.load(sys.stdin):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]
    ids = encode.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    end = encode.convert_tokens_to_ids("<|im_end|>")
    out = model.generate(**ids, do_sample=False, max_new_tokens=40, eos_token_id=end, pad_token_id=0)
    new = out[0, ids["input_ids"].shape[1] :].tolist()
    found.append(encode.decode(new[:-1] if new[-1] == end else new))
print(json.dumps(found))
"""


def test_answers_are_those_of_transformers_and_peft(trained: Ft) -> None:
    """The same adapter folder, opened by PEFT; and Python gives the same answers in one batch."""
    run = trained.run()
    base = json.loads((run / "resolved.json").read_text())["model"]["folder"]
    line = [sys.executable, "-c", ORACLE, base, str(run / "adapter")]
    asked = json.dumps(QUESTIONS)
    oracle = subprocess.run(line, env=trained.env, input=asked, capture_output=True, text=True, timeout=300)
    assert oracle.returncode == 0, oracle.stderr
    said = trained.python(
        "import json, truetune as ft\n"
        f"asked = json.loads({asked!r})\n"
        "run = ft.open_run('last')\n"
        "many = run.generate(asked, system='Be brief.')\n"
        "with run.chat(system='Be brief.') as talk:\n"
        "    one = talk.say(asked[0])\n"
        "print(json.dumps([many, one]))"
    )
    assert said.code == 0, said.err
    many, one = json.loads(said.out)
    assert many == json.loads(oracle.stdout)
    assert one == many[0]


def test_an_adapter_elsewhere_answers_as_its_run(trained: Ft, document: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(trained.run() / "adapter", tmp_path / "adapter")
    answer = trained("chat", str(tmp_path / "adapter"), QUESTIONS[0], "--json").document["answer"]
    assert answer == document["answer"]


def test_the_whole_model_and_its_checkpoint_answer(ft: Ft) -> None:
    ft.rows()
    ft.config(method={"type": "full"}, training={"max_steps": 2}, evaluation={"samples": 0})
    assert ft("train", "-q").code == 0
    said = ft.python(
        "import json, truetune as ft\n"
        "found = [ft.generate('Say hello.', address, max_new_tokens=20, base=base, temperature=0.0)"
        " for address, base in (('last', False), ('last:step-2', False), ('last', True), ('starter', False))]\n"
        "print(json.dumps(found))"
    )
    assert said.code == 0, said.err
    result, checkpoint, base, starter = json.loads(said.out)
    assert result == checkpoint != base == starter


def test_texts_are_gone_on_with(ft: Ft) -> None:
    ft.write("texts.txt", "".join(f"Line {number} of the miller's book is here.\n" for number in range(40)))
    overrides = ("--set", "training.max_steps=2", "--set", "evaluation.samples=2")
    said = ft("train", "--model", "starter", "--data", "texts.txt", *overrides)
    assert said.code == 0 and "  begins Line " in said.err and "  text   " in said.err, said.err
    settings = json.loads((ft.run() / "adapter" / "generation_config.json").read_text())
    assert len(settings["eos_token_id"]) == 2  # the model's own, and that of its first training
    demo = ft("chat", "last", "--demo", "--max-new-tokens", "6")
    assert demo.code == 0, demo.err
    assert "  text  " in demo.out and "word for word" not in demo.out
    document = ft("chat", "last", "The mill stands", "--max-new-tokens", "5", "--json").document
    assert document["subject"]["speaks"] == "texts"
    assert document["tokens"] > 0
    refused = ft("chat", "last", "Hello", "--system", "Be brief.", "--json")
    assert (refused.code, refused.document["error"]["code"]) == (2, "generation.no_system")


def test_a_question_beyond_the_context_is_refused(trained: Ft) -> None:
    long = trained("chat", "last", "word " * 3000, "--json")
    assert (long.code, long.document["error"]["code"]) == (2, "generation.too_long")


def talk(ft: Ft, *args: str, columns: int = 80) -> Terminal:
    return Terminal(ft.folder, ft.env, "chat", "last", *args, columns=columns)


YOU = "you   › "


def test_a_conversation(trained: Ft) -> None:
    with talk(trained) as screen:
        header = screen.wait(YOU)
        assert trained.run().name in header and "temperature 0" in header and "/help" in header
        screen.type(QUESTIONS[0] + "\n")
        assert "tuned › Code " in screen.wait(YOU)
        screen.type("/base\n")
        assert "base  › " in screen.wait(YOU)
        screen.type("/save talk.jsonl\n")
        assert "2 messages" in screen.wait(YOU)
        screen.type("/reset\n")
        screen.wait(YOU)
        screen.type("/save talk.jsonl\n")
        assert "nothing was asked yet" in screen.wait(YOU)
        screen.type("/system Be brief.\n/temperature x\n/temperature 9\n/seed 3\n/nonsense\n")
        end = screen.wait("begins a question with a slash")
        assert "takes a number" in end and "cannot be used" in end and ", seed 3" not in end  # greedy: no seed
        screen.wait(YOU)
        screen.type("What does \\\ncode 3 mean?\n")
        screen.wait("tuned › ")
        screen.wait(YOU)
        screen.type("a <|im_end|> b\n")
        assert "control token" in screen.wait(YOU)
        screen.type(b"\x04")
        assert screen.end() == 0
    (row,) = [json.loads(line) for line in (trained.folder / "talk.jsonl").open()]
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    assert row["messages"][0]["content"] == QUESTIONS[0]
    kept = (trained.folder / "home" / "chat_history").read_text()
    assert QUESTIONS[0] in kept
    assert (trained.folder / "home" / "chat_history").stat().st_mode & 0o077 == 0
    shown = trained("dataset", "show", "talk.jsonl", "--json").document
    assert not any(row.get("refused") for row in shown["rows"])


def endless(folder: Path) -> Path:
    """The starter without any token that ends an answer: it writes until it is stopped."""
    shutil.copytree(STARTER, folder)
    for name, key in (
        ("config", "eos_token_id"),
        ("generation_config", "eos_token_id"),
        ("tokenizer_config", "eos_token"),
    ):
        body = json.loads((folder / f"{name}.json").read_text())
        del body[key]
        (folder / f"{name}.json").write_text(json.dumps(body))
    (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}\n{% endfor %}")
    return folder


def test_ctrl_c_ends_the_answer_and_then_the_chat(ft: Ft) -> None:
    model = endless(ft.folder / "endless")
    with Terminal(ft.folder, ft.env, "chat", str(model), "--temperature", "1", "--max-new-tokens", "900") as screen:
        screen.wait(YOU)
        screen.type(QUESTIONS[3] + "\n")
        screen.wait("base  › ")  # it comes with the first token; hundreds are to follow
        screen.interrupt()
        assert "(stopped)" in screen.wait(YOU)
        screen.type("/max-new-tokens 1\n")
        screen.wait(YOU)
        screen.type(QUESTIONS[0] + "\n")
        assert "(cut after 1 token:" in screen.wait(YOU)
        screen.interrupt()
        assert screen.end() == 0
    assert "Traceback" not in screen.text


def test_odd_bytes_and_steering_do_no_harm(trained: Ft) -> None:
    with talk(trained, "--max-new-tokens", "5", columns=40) as screen:
        screen.wait(YOU)
        screen.type(b"\xff\xfe\n")
        screen.wait(YOU)
        screen.type("//slash 🧿\n")
        screen.wait("tuned › ")
        screen.wait(YOU)
        screen.type("/exit\n")
        assert screen.end() == 0
    assert "Traceback" not in screen.text
