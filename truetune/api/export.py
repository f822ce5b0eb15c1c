"""The verb `export`: what was trained, in the layout that another program loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from truetune.api import wanted


def export(
    subject: Any = "last",
    *,
    format: str,
    out: str | Path | None = None,
    base: str | None = None,
    quant: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    repo: str | None = None,
    what: str | None = None,
    private: bool = False,
    approve: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Write an export and compare what its program does with what was trained: {folder, model, receipt, and a report}.

    subject  a run (`last`, an id, `RUN:best`, what `train` returned), an adapter's folder, or a model
    format   `mlx`: as mlx_lm loads it; `peft`: as PEFT loads it; `merged`: a whole model, the adapter folded in;
             `gguf`: that as one file for llama.cpp; `gguf-lora`: the adapter for llama.cpp; `ollama`: a GGUF file and
             a Modelfile
    out      a folder that is not there yet, or is empty; a run's own is by default `exports/FORMAT` or
             `exports/FORMAT-QUANT` in the run
    base     the model of an adapter that mlx_lm made, where its files do not say
    quant    the number type to store: of `merged` f32, f16, bf16; of `gguf` and `ollama` these, q8_0, and, where
             llama-cpp-python is installed, q6_k, q5_k_m, q5_k_s, q4_k_m, q4_k_s, q4_0, iq4_nl, q3_k_m, q2_k; of `mlx`
             4bit, 8bit, bf16, f16, f32, which make a whole model; None = as the format has it
    force    put it in place though the comparison fails; report, card and receipt record that
    dry_run  only check whether it can be exported: {schema, dry_run, format, of, folder, base}. Of a model that is not
             trained yet this asks whether what is trained on it could be

    repo     of format `hub`: `OWNER/NAME`, which an adapter, a merged model or a GGUF file is pushed to
    what     of format `hub`: `adapter`, `merged` or `gguf`; None = the adapter, of full fine-tuning the model
    private  of format `hub`: make a new repository one that only its owner can read
    approve  of format `hub`: is shown {repo, private, what, files: {name: bytes}} before anything is sent, and raises
             to stop; `publish` says what comes back

    The report: {schema, format, of, base: {name, revision}, adapter, whole, template, effect, truetune, forced, parity:
    {first, second, ok, stage, stages: [{name, state, detail, …}], tokens, largest, mean, kl, top1, tolerance}, stored}.
    Parity is measured in float32; `stored` says how far the number type of the stored weights is from what was trained,
    where it is another: {dtype, kl, top1, largest, mean, bound}.

    Raises UsageError and InputError before anything is written, CheckFailed `export.parity` where the export is not
    what was trained (nothing is left behind), ResourceError.
    """
    from dataclasses import replace

    from truetune.api import publish
    from truetune.export import gate, origin, proof
    from truetune.export.runtime import Options

    options = Options(quant=quant)
    publish.refuse_mixed(format, out, {"repo": repo, "what": what, "private": private})
    if format == "hub":
        found = origin.find(wanted.address(subject), base)
        return publish.publish(
            found,
            options,
            lambda kind, how, place: _made(
                found, kind, how, gate.place(found, "-".join(filter(None, (kind, quant))), place), options, force
            ),
            lambda kind: _module(gate.module(kind, options)),
            repo=repo,
            what=what,
            private=private,
            dry_run=dry_run,
            approve=approve,
        )
    name = gate.module(format, options)
    found = origin.find(wanted.address(subject), base)
    if dry_run:
        found = replace(found, planned=found.subject is not None and not found.subject.tuned)
    how = _module(name)
    gate.check(found, how, options)
    place = Path(out).expanduser() if out else None
    called = "-".join(filter(None, (format, quant)))
    target = gate.place(found, called, place) if place or found.run or not dry_run else None
    if dry_run:
        base_of = {"name": found.base.name, "revision": found.base.revision}
        told = {"format": format, "of": found.name, "base": base_of, "quant": quant}
        return {"schema": 1, "dry_run": True, "folder": str(target) if target else None, **told}
    assert target is not None
    report = _made(found, format, how, target, options, force)
    stage = proof.write(found, target, report)
    beside = format in gate.ADAPTERS and not (format in gate.WHOLE and quant)
    model = found.side.model if report["adapter"] and beside else target
    return report | {"folder": str(target), "model": str(model), "receipt": stage}


def _made(found: Any, format: str, how: Any, target: Path, options: Any, force: bool) -> dict[str, Any]:
    """Write an export at a place; returns its report."""
    from truetune.export import gate
    from truetune.export.origin import MLX_LM
    from truetune.export.run_trained import Trained

    trained = _module("truetune.export.run_mlx").trained if found.side.engine == MLX_LM else Trained
    return gate.write(found, format, how, target, options, force=force, trained=trained)


def _module(name: str) -> Any:
    """A module of a format or a program. Raises ResourceError `export.not_installed`."""
    from importlib import import_module

    from truetune.engines import keep_out_kernels
    from truetune.errors import ResourceError

    keep_out_kernels()  # PEFT imports bitsandbytes
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ResourceError(
            f"this format needs {error.name}, which is not installed",
            code="export.not_installed",
            where="format",
            hint=f'Install it: pip install "truetune[{error.name}]".',
        ) from None
