"""The last question, taken out of a prompt as it is served."""

from __future__ import annotations

import pytest

from truetune.data.turns import Question
from truetune.models.template import PLAIN, RAW, Template, TemplateError
from truetune.testing import templates

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
ALL = {name: text for name, text in vars(templates).items() if name.isupper() and isinstance(text, str) and "{" in text}
ALL |= {"PLAIN": PLAIN}
ASKED = "How do I return it?\nIt is broken."


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("history", [[], [("user", "Hello"), ("assistant", "Hi.")]])
def test_the_question_comes_out_again(name: str, history: list[tuple[str, str]]) -> None:
    template = Template(ALL[name], TOKENS, name)
    messages = [{"role": role, "content": text} for role, text in [*history, ("user", ASKED)]]
    try:
        prompt = template.render(messages, add_generation_prompt=True)
    except TemplateError:
        pytest.skip("this template refuses the conversation")
    if "return it" not in prompt:
        pytest.skip("this template drops it")
    assert Question(template)(prompt) == ASKED


def test_a_system_message_is_not_the_question() -> None:
    template = Template(templates.CHATML, TOKENS, "chatml")
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": ASKED}]
    assert Question(template)(template.render(messages, add_generation_prompt=True)) == ASKED


def test_without_a_template_the_prompt_is_the_question() -> None:
    assert Question(Template(RAW, TOKENS, "none"))("Translate: dog\n") == "Translate: dog"


def test_a_template_that_refuses_gives_the_prompt() -> None:
    assert Question(Template("{{ raise_exception('no') }}", TOKENS, "no"))(" as it is ") == "as it is"
