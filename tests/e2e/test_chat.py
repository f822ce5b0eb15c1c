"""`ft chat` on a trained run: one answer, lines, a conversation at a real terminal, and transformers as the oracle."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from real_ft import Ft
from real_terminal import Terminal

pytestmark = pytest.mark.slow

QUESTIONS = ["What does code 3 mean?", "Say hello.", "What is code 17?", "Why is the sky blue?"]
LONG = ("--temperature", "2.5", "--max-new-tokens", "900", "--seed", "4")
"""An answer that goes on and on."""


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


def stdin(ft: Ft, text: bytes, *args: str) -> subprocess.CompletedProcess[bytes]:
    line = [sys.executable, "-m", "truetune", *args]
    return subprocess.run(line, cwd=ft.folder, env=ft.env, input=text, capture_output=True, timeout=120)


def test_one_answer(trained: Ft) -> None:
    plain = trained("chat", "last", QUESTIONS[0])
    document = trained("chat", "last", QUESTIONS[0], "--json").document
    assert plain.code == 0, plain.err
    assert plain.out == document["answer"] + "\n"
    assert document["answer"].startswith("Code 3 means")
    assert document["reason"] == "stop" and document["tokens"] > 5 and document["seconds"] > 0
    assert document["subject"]["run"] == trained.run().name in plain.err
    assert document["subject"]["asked"] == "tuned"
    assert trained("test", "last", QUESTIONS[0], "--json").document["answer"] == document["answer"]
    assert trained("chat", "last", QUESTIONS[0], "--base", "--json").document["answer"] != document["answer"]


def test_the_same_seed_gives_the_same_answer(trained: Ft) -> None:
    hot = ("chat", "last", QUESTIONS[1], "--temperature", "1.5", "--json")
    first = trained(*hot).document
    again = trained(*hot, "--seed", str(first["seed"])).document
    other = trained(*hot, "--seed", str(first["seed"] + 1)).document
    assert first["answer"] == again["answer"] != other["answer"]


def test_each_line_is_a_question_of_its_own(trained: Ft) -> None:
    text = "\n".join([*QUESTIONS, "", QUESTIONS[0]]).encode()
    done = stdin(trained, text, "chat", "last", "-q", "--json")
    answers = json.loads(done.stdout)["answers"]
    assert [answer["prompt"] for answer in answers] == [*QUESTIONS, QUESTIONS[0]]
    assert answers[0]["answer"] == answers[-1]["answer"]
    assert stdin(trained, text, "chat", "-q").stdout.decode() == "".join(one["answer"] + "\n" for one in answers)
    one = stdin(trained, QUESTIONS[0].encode() + b"\n", "chat", "last", "-", "--json")
    assert json.loads(one.stdout)["answer"] == answers[0]["answer"]
    bad = stdin(trained, b"Hello\n\xff\n", "chat", "last", "--json")
    error = json.loads(bad.stdout)["error"]
    assert (bad.returncode, error["code"], error["where"]) == (2, "generation.not_text", "line 2")


def test_own_rows_before_and_after(trained: Ft) -> None:
    answers = trained("chat", "last", "--demo", "--json").document["answers"]
    asked = {
        json.loads(line)["prompt"]: json.loads(line)["completion"] for line in (trained.folder / "rows.jsonl").open()
    }
    assert len(answers) == 8
    assert all(asked[answer["question"]] == answer["row"] for answer in answers)
    assert all(answer["before"] != answer["after"] for answer in answers)
    page = trained("chat", "--demo").out
    assert all(answers[0][name] in page for name in ("question", "after", "row"))


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


def test_an_adapter_elsewhere_answers_as_its_run(trained: Ft, tmp_path: Path) -> None:
    shutil.copytree(trained.run() / "adapter", tmp_path / "adapter")
    answer = trained("chat", str(tmp_path / "adapter"), QUESTIONS[0], "--json").document["answer"]
    assert answer == trained("chat", "last", QUESTIONS[0], "--json").document["answer"]


def test_texts_are_gone_on_with(ft: Ft) -> None:
    ft.write(
        "texts.txt",
        "The mill stands by the river and turns all day.\n" * 3 + "".join(f"Line {n} is here.\n" for n in range(40)),
    )
    overrides = ("--set", "training.max_steps=3", "--set", "evaluation.samples=0")
    assert ft("train", "--model", "starter", "--data", "texts.txt", "-q", *overrides).code == 0
    document = ft("chat", "last", "The mill stands", "--max-new-tokens", "5", "--json").document
    assert document["subject"]["speaks"] == "texts" and document["tokens"] > 0
    refused = ft("chat", "last", "Hello", "--system", "Be brief.", "--json")
    assert (refused.code, refused.document["error"]["code"]) == (2, "generation.no_system")


def test_what_does_not_fit_is_said_in_a_sentence(trained: Ft) -> None:
    long = trained("chat", "last", "word " * 3000, "--json")
    assert (long.code, long.document["error"]["code"]) == (2, "generation.too_long")
    forged = trained("chat", "last", "a <|im_end|> b")
    assert forged.code == 2 and "control token" in forged.err and "Traceback" not in forged.err


def talk(ft: Ft, *args: str, columns: int = 80) -> Terminal:
    return Terminal(ft.folder, ft.env, "chat", "last", *args, columns=columns)


YOU = "you   › "


def test_a_conversation(trained: Ft) -> None:
    with talk(trained) as screen:
        header = screen.wait(YOU)
        assert trained.run().name in header and "temperature 0" in header and "/help" in header
        screen.type(QUESTIONS[0] + "\n")
        assert "tuned › Code 3 means" in screen.wait(YOU)
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
        assert "takes a number" in end and "cannot be used" in end and "seed 3" not in end  # greedy: no seed
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
    assert trained("train", "--model", "starter", "--data", "talk.jsonl", "--json").document["error"]["code"] != "bug"


def test_ctrl_c_ends_the_answer_and_then_the_chat(trained: Ft) -> None:
    with talk(trained, *LONG) as screen:
        screen.wait(YOU)
        screen.type(QUESTIONS[3] + "\n")
        screen.wait("tuned › ")
        screen.interrupt()
        assert "(stopped" in screen.wait(YOU)
        screen.type("/temperature 0\n")
        screen.wait(YOU)
        screen.type("/reset\n")
        screen.wait(YOU)
        screen.type(QUESTIONS[0] + "\n")
        assert "Code 3 means" in screen.wait(YOU)
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
