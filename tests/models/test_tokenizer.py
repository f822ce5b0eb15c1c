"""The tokenizer of a model folder: what the files beside tokenizer.json say, and one error for each that is missing."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from truetune.errors import InputError
from truetune.models.template import Template, TemplateEndless, TemplateError
from truetune.models.tokenizer import load
from truetune.testing import tokens


def change(folder: Path, name: str, **values: object) -> None:
    path = folder / name
    before = orjson.loads(path.read_bytes()) if path.exists() else {}
    path.write_bytes(orjson.dumps({**before, **values}))


def test_reads_and_writes_text(tmp_path: Path) -> None:
    encode = load(tokens.byte_level(tmp_path))
    ids = encode.encode("How do I train? 日本 🙂")
    assert encode.decode(ids) == "How do I train? 日本 🙂"
    assert encode.decode([*ids, encode.eos_id or 0], skip_special=True) == "How do I train? 日本 🙂"
    assert encode.encode_batch(["How do", "I"])[0].tolist() == encode.encode("How do")
    assert encode.vocabulary > max(encode.encode("</s><|im_end|>"))


def test_offsets_are_characters(tmp_path: Path) -> None:
    text = "日本 seven</s>"
    ids, offsets = load(tokens.byte_level(tmp_path)).encode_with_offsets(text)
    assert len(ids) == len(offsets) and offsets[-1] == (text.index("</s>"), len(text))


def test_names_its_tokens(tmp_path: Path) -> None:
    encode = load(tokens.byte_level(tmp_path))
    assert (encode.bos, encode.eos, encode.pad) == ("<s>", "</s>", "<pad>")
    assert encode.special.fullmatch("<|im_end|>") and not encode.special.search("im_end")


@pytest.mark.parametrize("bos", [True, False])
def test_a_document_begins_as_the_tokenizer_begins_it(tmp_path: Path, bos: bool) -> None:
    encode = load(tokens.byte_level(tmp_path, bos=bos))
    start = encode.encode_document("seven")[0]
    assert (start == encode.id("<s>")) is bos is encode.adds_bos


def test_the_configuration_overrules_the_post_processor(tmp_path: Path) -> None:
    change(tokens.byte_level(tmp_path, bos=True), "tokenizer_config.json", add_bos_token=False)
    assert not load(tmp_path).adds_bos


def test_eos_ids_come_from_all_files(tmp_path: Path) -> None:
    tokens.byte_level(tmp_path)
    plain = load(tmp_path)
    end, middle = plain.id("</s>"), plain.id("<|im_end|>")
    change(tmp_path, "generation_config.json", eos_token_id=[middle, end])
    change(tmp_path, "config.json", eos_token_id=10**6)
    assert load(tmp_path).eos_ids == (end, middle)
    assert load(tmp_path).digest != plain.digest


def test_without_a_named_eos_the_configuration_gives_one(tmp_path: Path) -> None:
    change(tokens.byte_level(tmp_path), "tokenizer_config.json", eos_token=None)
    assert load(tmp_path).eos is None
    change(tmp_path, "config.json", eos_token_id=load(tmp_path).id("<|im_end|>"))
    assert load(tmp_path).eos == "<|im_end|>"


def test_named_tokens_that_the_file_lacks_are_added(tmp_path: Path) -> None:
    change(
        tokens.byte_level(tmp_path),
        "tokenizer_config.json",
        eos_token={"content": "<end>"},
        extra_special_tokens=["<x>"],
    )
    encode = load(tmp_path)
    assert encode.encode("seven<end><x>")[-2:] == [encode.eos_id, encode.id("<x>")]


def test_truncation_in_the_file_is_not_obeyed(tmp_path: Path) -> None:
    import tokenizers

    backend = tokenizers.Tokenizer.from_file(str(tokens.byte_level(tmp_path) / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=9)
    backend.save(str(tmp_path / "tokenizer.json"))
    encode = load(tmp_path)
    assert encode.decode(encode.encode("seven of nine people said yes")) == "seven of nine people said yes"


def test_template_files_have_an_order(tmp_path: Path) -> None:
    tokens.byte_level(tmp_path)
    assert load(tmp_path).template is None
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]
    change(tmp_path, "tokenizer_config.json", chat_template=named)
    assert load(tmp_path).template.source == "y"  # type: ignore[union-attr]
    (tmp_path / "chat_template.jinja").write_text("z")
    assert load(tmp_path).template.source == "z"  # type: ignore[union-attr]


def test_digest_changes_with_the_template(tmp_path: Path) -> None:
    before = load(tokens.byte_level(tmp_path, template="a")).digest
    (tmp_path / "chat_template.jinja").write_text("b")
    assert load(tmp_path).digest != before


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, "model.no_tokenizer"), ("{", "model.bad_tokenizer"), ('{"model": {}}', "model.bad_tokenizer")],
)
def test_one_error_for_what_is_missing_or_broken(tmp_path: Path, content: str | None, code: str) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    assert caught.value.finding.code == code


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b"{}"),
        ("tokenizer_config.json", b"{"),
        ("chat_template.jinja", b"\xff\xfe"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    tokens.byte_level(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    finding = caught.value.finding
    assert (finding.code, finding.where) == ("model.bad_tokenizer", str(tmp_path / name)) and finding.hint


def test_templates_without_a_name_are_none(tmp_path: Path) -> None:
    tokens.byte_level(tmp_path)
    change(tmp_path, "tokenizer_config.json", chat_template=["x", {"template": "y"}])
    assert load(tmp_path).template is None


def render(source: str, **tokens: str) -> str:
    return Template(source, tokens, "t").render([{"role": "user", "content": "a<b>'é"}])


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "a<b>\'é"}'),
        ("{% for m in messages %}\n  {% if true %}\nx{% endif %}\n{% break %}{% endfor %}", "x"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "a<b>'é!"),
        ("{{ bos_token }}{{ tools is none }}{{ missing }}", "<s>True"),
        ("{{ strftime_now('%%') }}", "%"),
    ],
)
def test_a_template_has_what_transformers_offers(source: str, text: str) -> None:
    assert render(source, bos_token="<s>") == text


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no system role') }}",
        "{{ 1 / 0 }}",
        "{{ messages[3].content.strip() }}",
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_that_refuses_or_reaches_out_is_one_error(source: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(source)
    assert caught.value.finding.code == "data.template" and caught.value.exit_code == 3


def test_a_template_that_does_not_compile_names_its_line() -> None:
    with pytest.raises(TemplateError) as caught:
        Template("a\n{% if %}", {}, "chat_template.jinja")
    assert (caught.value.finding.code, caught.value.finding.where) == ("model.template", "chat_template.jinja:2")


FOREVER = "{% for i in range(99999) %}{% for j in range(99999) %}"


@pytest.mark.parametrize(
    "source",
    [
        FOREVER + "{% endfor %}{% endfor %}",
        "{% set environment = 1 %}" + FOREVER + "{% endfor %}{% endfor %}",
        "{% for i in range(9999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}",
        "{% set n = namespace(x='a') %}{% for i in range(90) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x='a') %}{% for i in range(90) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x=[0]) %}{% for i in range(90) %}{% set n.x = n.x * 2 %}{% endfor %}",
        "{{ 'a' * 99999999999 }}",
        "{{ 9 ** (9 ** 9) }}",
    ],
)
def test_a_template_that_goes_on_for_ever_is_stopped(source: str) -> None:
    with pytest.raises(TemplateEndless) as caught:
        render(source)
    assert caught.value.finding.code == "model.template" and caught.value.exit_code == 3


def test_the_bounds_are_those_of_one_rendering() -> None:
    template = Template("{% for i in range(90000) %}{% endfor %}{{ 'a' ~ 2 ~ none ~ (2 ** 3 + 1 * 2) }}", {}, "t")
    assert {template.render([]) for _ in range(20)} == {"a2None10"}
