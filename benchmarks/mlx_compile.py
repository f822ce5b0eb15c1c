"""Does a compiled step pay on the CPU? Loss and gradient of a micro-batch, as it is and through mx.compile, in turns.

    TMPDIR=FOLDER python benchmarks/mlx_compile.py [--model FOLDER] [--out FILE]

Per shape of the micro-batch (a compiled function holds for one shape): seconds of the first call, which traces, calls
g++ and loads what it made; the best of five calls each way; and whether both give the same bits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

SHAPES = ((8, 48), (4, 96), (2, 200), (1, 400))
CALLS = 5


def measured(folder: Path) -> list[dict[str, Any]]:
    from truetune.data.example import Example
    from truetune.engines import open_engine
    from truetune.engines.base import EngineSpec, Method

    engine: Any = open_engine("mlx", EngineSpec(model=folder, method=Method(r=8, alpha=16)))
    import mlx.core as mx  # only now: the engine loads OpenBLAS before it

    from truetune.engines.mlx import batch

    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    draw = np.random.default_rng(0)

    def made(rows: int, length: int) -> Any:
        weights = (np.arange(length) >= length // 2).astype(np.float32)
        ids = [draw.integers(4, vocabulary, length).astype(np.int32) for _ in range(rows)]
        return batch.batch([Example(one, weights, 0) for one in ids])

    def call(function: Any, one: Any) -> tuple[float, float, Any]:
        wall, processor = time.perf_counter(), time.process_time()
        found = function(engine.parameters, one.ids, one.picked, one.targets, one.weights, one.owners)
        mx.eval(found)
        return time.perf_counter() - wall, time.process_time() - processor, found

    def compare(rows: int, length: int) -> dict[str, Any]:
        one = made(rows, length)

        def loss(parameters: Any, *arrays: Any) -> Any:
            return engine._loss(parameters, batch.Batch(*arrays, one.examples), None, 100.0)[0]

        slope = mx.value_and_grad(loss)
        call(slope, one)
        mx.enable_compile()
        compiled = mx.compile(slope)
        first = call(compiled, one)[0]
        pairs = []
        for _ in range(CALLS):
            mx.disable_compile()
            plain = call(slope, one)
            mx.enable_compile()
            pairs.append((plain, call(compiled, one)))
        mx.disable_compile()
        (_, _, (ours, slopes)), (_, _, (theirs, others)) = pairs[-1]
        best = [[min(pair[side][clock] for pair in pairs) for clock in (0, 1)] for side in (0, 1)]
        return {
            "rows": rows,
            "length": length,
            "first_call_seconds": first,
            "seconds": {"plain": best[0][0], "compiled": best[1][0]},
            "cpu_seconds": {"plain": best[0][1], "compiled": best[1][1]},
            "same_bits": ours.item() == theirs.item()
            and all(np.array_equal(np.array(slopes[name]), np.array(others[name])) for name in slopes),
        }

    return [compare(*shape) for shape in SHAPES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("truetune/models/starter"))
    parser.add_argument("--out", type=Path, default=Path("docs/evidence/mlx-compile.json"))
    options = parser.parse_args()
    body = {
        "command": "python benchmarks/mlx_compile.py",
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": "2 cores of an x86-64 server, busy with other work: CPU time is the fairer figure",
        "versions": {name: version(name) for name in ("mlx", "mlx-lm", "truetune")},
        "model": options.model.name,
        "shapes": measured(options.model),
    }
    options.out.write_text(json.dumps(body, indent=2) + "\n")
    for shape in body["shapes"]:
        print(shape)


if __name__ == "__main__":
    main()
