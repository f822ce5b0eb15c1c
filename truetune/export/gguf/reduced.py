"""A GGUF file in a narrower number type: here, tensor by tensor, or by llama.cpp's own quantiser for K-quants."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import gguf
import numpy as np
from gguf import GGUFValueType

from truetune.export.gguf import tensors
from truetune.export.gguf.child import Child
from truetune.models import gguf_header

KQUANTS = {
    "q6_k": "Q6_K", "q5_k_m": "Q5_K_M", "q5_k_s": "Q5_K_S", "q4_k_m": "Q4_K_M", "q4_k_s": "Q4_K_S", "q3_k_m": "Q3_K_M",
    "q2_k": "Q2_K", "q4_0": "Q4_0", "iq4_nl": "IQ4_NL",
}  # fmt: skip
"""Names of `--quant` -> llama.cpp's names, for its own quantiser."""


def installed() -> bool:
    """Whether llama.cpp's own quantiser is here."""
    return importlib.util.find_spec("llama_cpp") is not None


def reduce(file: Path, kind: str) -> None:
    """Store a float32 file in another number type, in place. Raises CheckFailed `export.runtime`."""
    aside = file.with_suffix(".narrow")
    gguf_header.check(file)
    if kind in KQUANTS:
        quantise(file, aside, KQUANTS[kind])
    else:
        narrow(file, aside, kind)
    aside.replace(file)


def narrow(file: Path, target: Path, kind: str) -> None:
    """Every key as it is, every tensor in the type that `tensors.stored` gives it."""
    reader = gguf.GGUFReader(file)
    writer = gguf.GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    try:
        for name, value in reader.fields.items():
            if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
                inner = value.types[-1] if value.types[0] == GGUFValueType.ARRAY else None
                writer.add_key_value(name, value.contents(), value.types[0], inner)
        writer.add_file_type(tensors.FILES[kind])
        pour(reader, writer, kind)
    finally:
        writer.close()


def pour(reader: gguf.GGUFReader, writer: gguf.GGUFWriter, kind: str) -> None:
    kinds = {each.name: tensors.stored(each.name, each.data.shape, kind) for each in reader.tensors}
    for each in reader.tensors:
        tensors.announce(writer, each.name, each.data.shape, kinds[each.name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for each in reader.tensors:
        writer.write_tensor_data(tensors.packed(np.asarray(each.data, np.float32), kinds[each.name]))


def quantise(file: Path, target: Path, kind: str) -> None:
    """By llama.cpp, in a process of its own."""
    child = Child("quantiser")
    try:
        child.ask({"source": str(file.resolve()), "target": str(target.resolve()), "kind": kind})
    finally:
        child.close()
