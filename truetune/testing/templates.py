"""Chat templates of the kinds in use, each with what it makes of an answer. For tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from truetune.models.template import PLAIN


@dataclass(frozen=True)
class Case:
    name: str
    source: str
    answer: Callable[[str], str]
    """The text that the model must write for an answer's content, with its end-of-turn token."""
    system: bool = True
    specials: tuple[str, ...] = ()


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = """\
{%- for m in messages %}
{{- '<|im_start|>' + m['role'] + '\n' }}
{%- if m['role'] == 'assistant' %}
    {%- generation %}{{- m['content'] + '<|im_end|>' }}{%- endgeneration %}
{%- else %}
    {{- m['content'] + '<|im_end|>' }}
{%- endif %}
{{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = """\
{{ bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}
    {%- set role = 'model' if m.role == 'assistant' else m.role %}
    {{- '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{%- endif %}
"""
LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set head = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set head = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% set text = head + m.content if loop.index0 == 0 else m.content %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + text.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% set turns = messages[1:] if messages[0].role == 'system' else messages %}"
    "{% set ns = namespace(last=0) %}"
    "{% for m in turns %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{{ bos_token }}{% for m in turns %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + (system + '\n\n' if system and loop.index0 == ns.last else '') + m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}"
)
THINKING = """\
{%- set ns = namespace(last=-1) %}
{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\n' }}
{%- if m.role == 'assistant' %}
    {%- set text, thought = m.content, '' %}
    {%- if '</think>' in text %}
        {%- set thought = text.split('</think>')[0].split('<think>')[-1].strip('\n') %}
        {%- set text = text.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {%- if loop.index0 > ns.last %}{{- '<think>\n' + thought + '\n</think>\n\n' }}{%- endif %}
    {{- text }}
{%- else %}
    {{- m.content }}
{%- endif %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""
CHANNELS = (
    "{% for m in messages %}<|start|>{{ m.role }}"
    "{% if m.role == 'assistant' %}<|channel|>final<|message|>{{ m.content }}<|return|>"
    "{% else %}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
SPACED = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def chatml(text: str) -> str:
    return text + "<|im_end|>"


def thinking(text: str) -> str:
    return "<think>\n\n</think>\n\n" + text + "<|im_end|>"


CASES = [
    Case("chatml", CHATML, chatml),
    Case("marked", MARKED, chatml),
    Case("thinking", THINKING, thinking),
    Case(
        "llama3",
        LLAMA3,
        lambda text: text.strip() + "<|eot_id|>",
        specials=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    Case(
        "gemma",
        GEMMA,
        lambda text: text.strip() + "<end_of_turn>",
        system=False,
        specials=("<start_of_turn>", "<end_of_turn>"),
    ),
    Case("llama2", LLAMA2, lambda text: f" {text.strip()} </s>"),
    Case("mistral", MISTRAL, lambda text: f" {text.strip()}</s>", specials=("[INST]", "[/INST]")),
    Case(
        "channels",
        CHANNELS,
        lambda text: f"<|channel|>final<|message|>{text}<|return|>",
        specials=("<|start|>", "<|channel|>", "<|message|>", "<|return|>", "<|end|>"),
    ),
    Case("spaced", SPACED, lambda text: text + "</s>"),
    Case("plain", PLAIN, lambda text: text + "</s>"),
]
