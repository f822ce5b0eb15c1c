"""What a person sees while it trains: a live line in a terminal, plain lines elsewhere. All of it on stderr."""

from __future__ import annotations

import time
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from truetune.cli import visible
from truetune.cli.common import Output
from truetune.cli.work import QUIET_SECONDS, Work
from truetune.data.objectives import divisor
from truetune.report import rewards
from truetune.report.words import clock, counted, listed, size, thousands


class Watch:
    """Listens to a run: `Watch(out)` is the listener, used as a context manager around the training."""

    def __init__(self, out: Output) -> None:
        self.out, self.work = out, Work(out)
        self.figures: dict[str, Any] = {}
        self.eval_loss: float | None = None
        self.bar: Progress | None = None
        self.task = TaskID(0)
        self.started = self.printed = time.monotonic()
        self.first_step = 0
        self.sampled = -1
        self.texts = False
        """Whether texts are learned, not answers."""

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.work.stop()
        if self.bar:
            self.bar.stop()
            self.bar = None

    def __call__(self, kind: str, figures: dict[str, Any]) -> None:
        hear = getattr(self, f"on_{kind}", None)
        if hear:
            hear(figures)

    def on_rows(self, figures: dict[str, Any]) -> None:
        self.work(figures["stage"], figures["done"], figures["total"], ends=False)

    def on_run(self, figures: dict[str, Any]) -> None:
        self.work.stop()
        self.texts = figures["config"]["training"]["objective"] == "pretrain"
        for line in introduction(figures):
            self.out.note(line)

    def on_warning(self, figures: dict[str, Any]) -> None:
        self.out.note(f"warning: {figures['text']}", style="yellow")

    def on_proof(self, figures: dict[str, Any]) -> None:
        self.work.stop()
        self.out.note(f"proof of the resume: {figures['text']}")

    def on_start(self, figures: dict[str, Any]) -> None:
        self.out.note(learner(figures))
        self.first_step, self.started = figures["step"], time.monotonic()
        console = self.out.progress
        if console.is_terminal and not self.out.quiet:
            self.bar = Progress(TextColumn("{task.description}"), BarColumn(24), TimeRemainingColumn(), console=console)
            self.task = self.bar.add_task("first step …", total=figures["steps"], completed=figures["step"])
            self.bar.start()

    def on_reference(self, figures: dict[str, Any]) -> None:
        """What the model thinks of the rows before training is measured."""
        text = f"before training: {figures['done']:,} of {figures['total']:,} rows measured"
        if self.bar:
            self.bar.update(self.task, description=text)
        elif time.monotonic() - self.printed >= QUIET_SECONDS:
            self.printed = time.monotonic()
            self.out.note(text)

    def on_train(self, figures: dict[str, Any]) -> None:
        text = self.line(figures)
        if self.bar:
            self.bar.update(self.task, completed=figures["step"], description=text)
        elif figures["step"] in (1, figures["steps"]) or time.monotonic() - self.printed >= QUIET_SECONDS:
            self.printed = time.monotonic()
            self.out.note(f"{text}  ETA {clock(self.remaining(figures))}")

    def on_eval(self, figures: dict[str, Any]) -> None:
        self.eval_loss = figures["loss"]
        mark = " (best)" if figures["best"] else ""
        measured = ", ".join([f"held-out loss {figures['loss']:.4f}", *rewards.said(figures)])
        self.out.note(f"step {figures['step']}: {measured} on {counted(figures['rows'], 'row')}{mark}")

    def on_sample(self, figures: dict[str, Any]) -> None:
        """The first sample of each evaluation; all of them with -v."""
        if figures["step"] == self.sampled and not self.out.verbose:
            return
        self.sampled = figures["step"]
        asked = f"begins {behind(figures['question'])}" if self.texts else f"asked  {brief(figures['question'])}"
        self.out.note(f"  {asked}", style="bold")
        self.out.note(f"  base   {brief(figures['base'])}", style="dim")
        if figures["step"]:
            self.out.note(f"  now    {brief(figures['answer'])}", style="green")
        if self.texts:
            self.out.note(f"  text   {brief(figures['reference'])}", style="dim")

    def on_event(self, figures: dict[str, Any]) -> None:
        self.out.note(f"step {figures['step']}: {figures['event'].replace('_', ' ')}, {rest(figures)}", style="yellow")

    def line(self, figures: dict[str, Any]) -> str:
        """`epoch 1.4  step 12/42  loss 2.31  lr 1.8e-04  5.1k tok/s  0.9 GB`; `margin` and `accuracy` behind the loss
        where answers are compared."""
        learned = "  ".join([f"loss {figures['loss']:.4f}", *rewards.said(figures)])
        return (
            f"epoch {figures['epoch']:.2f}  step {figures['step']}/{figures['steps']}  {learned}  "
            f"lr {figures['lr']:.1e}  {thousands(figures['tokens_per_second'])} tok/s  {size(figures['memory'])}"
        )

    def remaining(self, figures: dict[str, Any]) -> float:
        """Seconds to go at the pace so far."""
        done: int = figures["step"] - self.first_step
        left: int = figures["steps"] - figures["step"]
        return (time.monotonic() - self.started) / max(1, done) * left


def introduction(figures: dict[str, Any]) -> list[str]:
    """What is about to happen, and every value that was chosen automatically, with its reason."""
    plan, data, config = figures["plan"], figures["data"], figures["config"]
    epochs = plan["steps"] / plan["steps_per_epoch"]
    rows, (key, what) = data["rows"], divisor(data["objective"])
    lines = [
        f"run     {figures['folder']}",
        f"data    {counted(rows['read'], 'row')} read: {rows['train']:,} to train on, {rows['validation']:,} held out"
        + aside(rows),
        f"learns  {learned(data)}",
        f"step    = {plan['step']} examples; {counted(plan['steps'], 'step')}, {epochs:.3g} epochs; "
        f"{plan['promised'][key]:,} {what} promised to the loss",
    ]
    if memory := figures.get("memory"):
        lines.append(f"memory  {memory['reason']}")
    lines += [f"auto    {key} = {value_of(config, key)}: {reason}" for key, reason in figures["reasons"].items()]
    return lines + [remark(finding) for finding in data["findings"]]


def remark(finding: dict[str, Any]) -> str:
    """`warning all answers are rated good: …; add rows of the other side`"""
    level = "warning" if finding["level"] == "warning" else "note"
    hint = f" → {finding['hint']}" if finding.get("hint") else ""
    return f"{level:<7} {finding['message']}{hint}"


def learned(data: dict[str, Any]) -> str:
    """What of the rows is learned."""
    if data.get("classes"):
        return f"{len(data['classes'])} classes: {listed([visible(name) for name in data['classes']], 8)}"
    return (
        f"{data['supervised']['train']:,} of {data['tokens']['train']:,} tokens; "
        f"{data['end_of_turn_supervised']:.0%} of the examples learn where to stop"
    )


LOST = ("rejected", "deduplicated", "contaminated", "too_long", "truncated", "unsupervised", "sampled_out")


def aside(rows: dict[str, int]) -> str:
    """` (7 too long, 2 rejected)`: what did not become an example as it stands; empty where there is nothing."""
    lost = [f"{rows[name]:,} {name.replace('_', ' ')}" for name in LOST if rows.get(name)]
    return f" ({', '.join(lost)})" if lost else ""


def value_of(config: dict[str, Any], key: str) -> Any:
    section, name = key.split(".")
    return config[section][name]


def learner(figures: dict[str, Any]) -> str:
    """`trains  196,608 of 3,641,856 parameters on cpu (float32), packed; 28 layers: down_proj, …`"""
    by = "" if figures["engine"] == "torch" else f" with {figures['engine']}"
    where = f"{figures['device']}{by} ({figures['dtype']}), {figures['micro_batches']}"
    layers = f"; {figures['adapted_layers']} layers: {', '.join(figures['target_modules'])}"
    more = f"; whole: {', '.join(figures['modules_to_save'])}" if figures.get("modules_to_save") else ""
    more += f"; the rows of {counted(figures['new_tokens'], 'new token')}" if figures.get("new_tokens") else ""
    more += f"; the result is their running mean ({figures['ema']:g})" if figures.get("ema") else ""
    counts = f"{figures['trained_parameters']:,} of {figures['parameters']:,} parameters"
    return f"trains  {counts} on {where}" + (layers if figures["adapted_layers"] else "") + more


def brief(text: str, width: int = 110) -> str:
    """On one line, and no longer than that."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def behind(text: str, width: int = 110) -> str:
    """The end of a text, which is where it goes on."""
    return brief(text[::-1], width)[::-1]


def rest(figures: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in figures.items() if key not in ("step", "steps", "event"))
