"""Model folders as an attacker would make them, each with what must come of it: an error's code, or nothing at all.

Payloads leave a canary where they run. `None` as the verdict means: the folder is used and what is hostile in it has no
effect.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truetune.models import source

Change = Callable[[Path, Path], None]
"""(folder, canary): make the folder hostile; the payload would create the file `canary`."""


@dataclass(frozen=True)
class Case:
    name: str
    change: Change
    code: str | None

    def __str__(self) -> str:
        return self.name


class Payload:
    """A pickle of this runs a command when it is opened. The tests write such files; nothing may ever read them."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def pickled(canary: Path) -> bytes:
    import pickle

    return pickle.dumps(Payload(canary))


def program(canary: Path) -> str:
    return f"open({str(canary)!r}, 'w').close()\nclass Mine: pass\n"


def edit(name: str, **values: Any) -> Change:
    """Keys over those of a JSON file; {canary} in a text becomes the canary's path."""

    def change(folder: Path, canary: Path) -> None:
        path = folder / name
        body = json.loads(path.read_text()) if path.exists() else {}
        text = json.dumps(body | values).replace("{canary}", str(canary))
        put(path, text)

    return change


def put(path: Path, content: str | bytes) -> None:
    """Replace a file; the old one is shared with other folders."""
    path.unlink(missing_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def write(name: str, content: Callable[[Path], str | bytes]) -> Change:
    return lambda folder, canary: put(folder / name, content(canary))


def code(*names: str) -> Change:
    def change(folder: Path, canary: Path) -> None:
        for name in names:
            put(folder / name, program(canary))

    return change


def both(*changes: Change) -> Change:
    def change(folder: Path, canary: Path) -> None:
        for one in changes:
            one(folder, canary)

    return change


def instead(name: str) -> Change:
    """A pickle in place of the weights."""

    def change(folder: Path, canary: Path) -> None:
        (folder / "model.safetensors").unlink()
        put(folder / name, pickled(canary))

    return change


def template(text: str) -> Change:
    return write("chat_template.jinja", lambda canary: text.replace("{canary}", str(canary)))


def link(name: str, target: str) -> Change:
    def change(folder: Path, canary: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return change


def index(value: Any) -> Change:
    """An index of shards instead of one file."""

    def change(folder: Path, canary: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001.safetensors")
        put(folder / "other.bin", pickled(canary))
        put(folder / "model.safetensors.index.json", value if isinstance(value, str) else json.dumps(value))

    return change


def header(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Rewrite the header of the weights; the data stays."""

    def apply(folder: Path, _: Path) -> None:
        data = (folder / "model.safetensors").read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        body = json.loads(data[8 : 8 + size])
        text = change(body)
        raw = text if isinstance(text, bytes) else json.dumps(body).encode()
        put(folder / "model.safetensors", struct.pack("<Q", len(raw)) + raw + data[8 + size :])

    return apply


def lie(**values: Any) -> Change:
    """Change the description of the first tensor."""

    def change(body: dict[str, Any]) -> None:
        first = next(name for name in body if name != "__metadata__")
        body[first] |= values

    return header(change)


def resize(size: int) -> Change:
    """Another length of the header."""

    def change(folder: Path, _: Path) -> None:
        data = (folder / "model.safetensors").read_bytes()
        put(folder / "model.safetensors", struct.pack("<Q", size) + data[8:])

    return change


def tokenizer(**values: Any) -> Change:
    return edit("tokenizer.json", **values)


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


MAP = {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Mine", "AutoTokenizer": ["mine.Mine", None]}
REMOTE = {"AutoConfig": "evil/repo--mine.Mine", "AutoModelForCausalLM": "evil/repo--mine.Mine"}
MINE = code("mine.py", "modeling_llama.py", "configuration_llama.py", "__init__.py", "sitecustomize.py")
WIDE = {"type": "Sequence", "normalizers": [replace("a", "aa")] * 40}

CONFIGS = [
    Case("auto_map-unknown", both(edit("config.json", auto_map=MAP, model_type="mine"), MINE), "model.custom_code"),
    Case("auto_map-native-type", both(edit("config.json", auto_map=MAP), MINE), None),
    Case("auto_map-other-repository", edit("config.json", auto_map=REMOTE), None),
    Case("auto_map-nested", edit("config.json", model_type="mine", text_config={"auto_map": MAP}), "model.custom_code"),
    Case("auto_map-in-a-list", edit("config.json", model_type="mine", a=[[{"auto_map": MAP}]]), "model.custom_code"),
    Case("model_file", both(edit("config.json", model_file="mine.py"), MINE), "model.custom_code"),
    Case("model_file-nested", edit("config.json", vision_config={"model_file": "mine.py"}), "model.custom_code"),
    Case("model_file-traversal", edit("config.json", model_file="../../mine.py"), "model.custom_code"),
    Case("trust_remote_code", edit("config.json", trust_remote_code=True, auto_map=MAP), "model.custom_code"),
    Case("custom_pipelines", edit("config.json", custom_pipelines={"x": {"impl": "mine.Mine"}}), "model.custom_code"),
    Case("custom_generate", both(edit("config.json", custom_generate="./"), MINE), "model.custom_code"),
    Case("attn-internal", edit("config.json", _attn_implementation_internal="evil/kernel"), "model.custom_code"),
    Case("attn", edit("config.json", _attn_implementation="evil/kernel:attend"), "model.custom_code"),
    Case("attn-public", edit("config.json", attn_implementation="evil/kernel@main:attend"), "model.custom_code"),
    Case("attn-dictionary", edit("config.json", attn_implementation={"": "evil/kernel"}), "model.custom_code"),
    Case("attn-paged", edit("config.json", attn_implementation="paged|evil/kernel"), "model.custom_code"),
    Case("attn-nested", edit("config.json", text_config={"_attn_implementation": "evil/k"}), "model.custom_code"),
    Case("experts", edit("config.json", _experts_implementation="evil/kernel"), "model.custom_code"),
    Case("weights-named", edit("config.json", transformers_weights="../mine.bin"), "model.other_file"),
    Case("gguf-named", edit("config.json", gguf_file="mine.gguf"), "model.other_file"),
    Case("quantized", edit("config.json", quantization_config={"quant_method": "gptq"}), "model.quantized"),
    Case("quantized-oddly", edit("config.json", quantization_config={"quant_method": "\x1b[2J"}), "model.quantized"),
    Case("kernels", edit("config.json", kernel_config={"RMSNorm": "evil/kernel:Norm"}, use_kernels=True), None),
    Case("fusion", edit("config.json", fusion_config={"x": "evil/kernel"}), None),
    Case("name-of-another", edit("config.json", _name_or_path="evil/repo", name_or_path="/etc/passwd"), None),
    Case("peft-in-config", edit("config.json", peft_config={"auto_mapping": {"parent_library": "mine"}}), None),
    Case("type-with-escape", edit("config.json", model_type="\x1b]0;x\x07"), "model.bad_config"),
    Case("type-as-path", edit("config.json", model_type="../mine"), "model.bad_config"),
    Case("type-as-list", edit("config.json", model_type=["llama"]), "model.bad_config"),
    Case("architecture-as-number", edit("config.json", architectures=[1]), "model.bad_config"),
    Case("layers-without-end", edit("config.json", num_hidden_layers=10**9), "memory.too_small"),
    Case("sizes-beyond-any", edit("config.json", hidden_size=10**18), "model.bad_config"),
    Case("nested-without-end", write("config.json", lambda _: "[" * 10**6), "model.bad_config"),
    Case("huge", write("config.json", lambda _: '{"a": "' + "x" * 2**24 + '"}'), "model.too_large"),
    Case("no-text", write("config.json", lambda _: b"\xff\xfe\x00"), "model.bad_config"),
    Case("generation-code", both(edit("generation_config.json", custom_generate="mine", auto_map=MAP), MINE), None),
    Case("tokenizer-code", both(edit("tokenizer_config.json", auto_map=MAP, tokenizer_class="Mine"), MINE), None),
    Case("processor-code", both(edit("processor_config.json", auto_map=MAP), MINE), None),
    Case("adapter-beside", edit("adapter_config.json", base_model_name_or_path="evil/repo", peft_type="LORA"), None),
]

WEIGHTS = [
    Case(f"pickle-{name}", instead(name), "model.pickle_weights")
    for name in (
        "pytorch_model.bin",
        "model.pt",
        "model.pth",
        "model.ckpt",
        "model.pkl",
        "model.npy",
        "flax_model.msgpack",
        "tf_model.h5",
    )
] + [
    Case("pickle-beside", write("pytorch_model.bin", pickled), None),
    Case("pickle-named-safetensors", write("model.safetensors", pickled), "model.damaged"),
    Case("pickle-of-a-trainer", write("training_args.bin", pickled), None),
    Case("distributed-checkpoint", write(".metadata", pickled), None),
    Case("gguf", both(instead("x.gguf"), write("x.gguf", lambda _: b"GGUF" + b"\xff" * 64)), "model.gguf"),
    Case("gguf-named-safetensors", write("model.safetensors", lambda _: b"GGUF" + b"\xff" * 64), "model.damaged"),
    Case("index-outside", index({"weight_map": {"a": "../model-00001.safetensors"}}), "model.damaged"),
    Case("index-absolute", index({"weight_map": {"a": "/etc/passwd"}}), "model.damaged"),
    Case("index-pickle", index({"weight_map": {"a": "other.bin"}}), "model.damaged"),
    Case("index-numbers", index({"weight_map": {"a": 1, "b": "x"}}), "model.damaged"),
    Case("index-lists", index({"weight_map": {"a": ["model-00001.safetensors"]}}), "model.damaged"),
    Case("index-nested", index("[" * 10**6), "model.damaged"),
    Case("header-longer", resize(2**63), "model.damaged"),
    Case("header-beyond-file", resize(10**8), "model.damaged"),
    Case("header-short", resize(3), "model.damaged"),
    Case("offsets-beyond", lie(data_offsets=[0, 2**62]), "model.damaged"),
    Case("offsets-negative", lie(data_offsets=[-8, 8]), "model.damaged"),
    Case("offsets-overlap", lie(data_offsets=[0, 512], shape=[256], dtype="BF16"), "model.damaged"),
    Case("shape-huge", lie(shape=[2**62, 2**62]), "model.damaged"),
    Case("shape-wraps", lie(shape=[2**32, 2**32]), "model.damaged"),
    Case("shape-negative", lie(shape=[-1]), "model.damaged"),
    Case("shape-of-words", lie(shape="many"), "model.damaged"),
    Case("dtype-unknown", lie(dtype="OBJECT"), "model.damaged"),
    Case("metadata-object", header(lambda body: body.update(__metadata__={"a": {"b": 1}})), "model.damaged"),
    Case("names-twice", header(lambda body: b'{"a": {}, "a": {}}'), "model.damaged"),
    Case("header-nested", header(lambda body: b"[" * 10**6), "model.damaged"),
]

TEMPLATES = [
    Case("os", template("{{ cycler.__init__.__globals__.os.system('touch {canary}') }}"), "data.template"),
    Case("popen", template("{{ lipsum.__globals__['os'].popen('touch {canary}').read() }}"), "data.template"),
    Case("subclasses", template("{{ ''.__class__.__mro__[1].__subclasses__() }}"), "data.template"),
    Case("include", template("{% include '/etc/passwd' %}"), "data.template"),
    Case("memory", template("{{ 'a'.center(1000000000) }}"), "model.template"),
    Case("multiplied", template("{{ 'a' * 2000000000 }}"), "model.template"),
    Case("endless", template("{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3), "model.template"),
    Case("recursive", template("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}"), "data.template"),
    Case("not-compiling", template("{{ " + "(" * 5000), "model.template"),
    Case("constant-folded", template("{{ 'a' | center(10**9) }}"), "model.template"),
    Case("template-huge", template("a" * (2**24 + 1)), "model.too_large"),
    Case(
        "template-named-as-path",
        both(
            lambda folder, _: (folder / "chat_template.jinja").unlink(),
            edit("tokenizer_config.json", chat_template=[{"name": "../../{canary}", "template": "x"}]),
        ),
        "model.template_name",
    ),
    Case(
        "templates-by-path",
        both(
            lambda folder, _: (folder / "chat_template.jinja").unlink(),
            edit("tokenizer_config.json", chat_template={"{canary}": "x", "default": "y"}),
        ),
        "model.template_name",
    ),
]

TOKENIZERS = [
    Case("nested", write("tokenizer.json", lambda _: "[" * 10**6), "model.bad_tokenizer"),
    Case("pickle", write("tokenizer.json", pickled), "model.bad_tokenizer"),
    Case("doubling", tokenizer(normalizer=WIDE), "model.bad_tokenizer"),
    Case("widening", tokenizer(normalizer=replace("a", "b" * 10**6)), "model.bad_tokenizer"),
    Case("of-nothing", tokenizer(normalizer=replace("", "x")), "model.bad_tokenizer"),
    Case(
        "many-parts",
        tokenizer(pre_tokenizer={"type": "Sequence", "pretokenizers": [split("a")] * 10**4}),
        "model.bad_tokenizer",
    ),
    Case("backtracking", tokenizer(pre_tokenizer=split("(\\S+\\s?)+$!")), "model.bad_tokenizer"),
    Case("choosing", tokenizer(normalizer={"type": "Replace", "pattern": {"Regex": "(a|a)*!"}}), "model.bad_tokenizer"),
    Case(
        "charsmap", tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "AA=="}), "model.bad_tokenizer"
    ),
]

LINKS = [
    Case("tokens-to-secret", link("added_tokens.json", "/etc/passwd"), "model.link"),
    Case("template-to-secret", link("chat_template.jinja", "/etc/passwd"), "model.link"),
    Case("config-to-device", link("config.json", "/dev/zero"), "model.no_config"),
    Case("config-to-itself", link("config.json", "config.json"), "model.no_config"),
    Case("weights-to-device", link("model.safetensors", "/dev/zero"), "model.no_weights"),
    Case("weights-to-text", link("model.safetensors", "/etc/passwd"), "model.damaged"),
]

CASES = CONFIGS + WEIGHTS + TEMPLATES + TOKENIZERS + LINKS


def copy(folder: Path) -> Path:
    """The starter model; its files are shared until they are replaced."""
    folder.mkdir(parents=True)
    for path in files():
        try:
            os.link(path, folder / path.name)
        except OSError:
            shutil.copyfile(path, folder / path.name)
    return folder


def files() -> Iterator[Path]:
    return (path for path in source.STARTER.iterdir() if path.is_file() and path.suffix != ".py")
