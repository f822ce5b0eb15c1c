"""The engine of serving on a tiny model: whose answers are whose, and what happens when things go wrong beside them."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("llguidance")

import torch
from safetensors.torch import load_file, save_file

from truetune.engines import adapter
from truetune.engines.base import EngineSpec, Method
from truetune.engines.decoder import DecoderSpec, Sampling
from truetune.engines.torch import tiny
from truetune.engines.torch.decode import TorchDecoder
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import InputError, UsageError
from truetune.models import tokenizer
from truetune.models.source import STARTER
from truetune.serve.requests import Busy, Closing, Limits, Request, Unknown
from truetune.serve.scheduler import Scheduler

ADAPTERS, CHUNK = 8, 16


@pytest.fixture(scope="module")
def encode():
    return tokenizer.load(STARTER)


@pytest.fixture(scope="module")
def base(tmp_path_factory, encode):
    return tiny.make(tmp_path_factory.mktemp("served") / "base", "llama", vocab_size=encode.vocabulary)


def write(folder, place, seed, **method):
    """An adapter that changes every answer."""
    engine = TorchEngine(EngineSpec(folder, Method(r=4, alpha=8, **method), seed=seed))
    draw = torch.Generator().manual_seed(seed)
    place.mkdir(parents=True)
    engine.export(place)
    tensors = load_file(place / adapter.WEIGHTS)
    for tensor in tensors.values():
        tensor.normal_(0, 0.4, generator=draw)
    save_file(tensors, place / adapter.WEIGHTS)
    return place


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return {f"a{seed}": write(base, root / f"a{seed}", seed) for seed in range(ADAPTERS)}


@pytest.fixture
def serve(base, encode):
    """`serve(limits, slots=…)` gives a scheduler, closed when the test ends."""
    opened = []

    def start(slots=16, limits=None, **spec):
        spec = DecoderSpec(base, slots=slots, chunk=CHUNK, **spec)
        opened.append(Scheduler(lambda: TorchDecoder(spec), encode, limits or Limits(chunk=CHUNK)))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def prompts(count, seed=0, longest=50):
    rng = np.random.default_rng(seed)
    return [tuple(rng.integers(4, 4000, int(size)).tolist()) for size in rng.integers(1, longest, count)]


def ended(handle):
    """Per choice the text, the ids and the last event."""
    found = {}
    for event in handle:
        one = found.setdefault(event.choice, SimpleNamespace(text="", ids=[], last=None))
        assert one.last is None or not one.last.reason
        one.text += event.text
        one.ids += [said.id for said in event.tokens]
        one.last = event
    return [found[choice] for choice in sorted(found)]


def only(handle):
    (one,) = ended(handle)
    return one


def loaded(scheduler, adapters):
    for name, folder in adapters.items():
        assert scheduler.load(name, folder).mixed
    return scheduler


def crowd(adapters, **sampling):
    """Sixteen requests for eight adapters and the base."""
    names = [*adapters, None, *adapters][:16]
    drawn = [Sampling(max_new_tokens=9, seed=i, **sampling) for i in range(16)]
    return [Request(ids, name, one) for ids, name, one in zip(prompts(16), names, drawn, strict=True)]


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "top_p": 0.9}])
def test_sixteen_answers_of_eight_adapters_and_the_base_are_those_of_each_alone(serve, adapters, sampling):
    scheduler = loaded(serve(), adapters)
    requests = crowd(adapters, **sampling)
    alone = [only(scheduler.submit(request)) for request in requests]
    together = [only(handle) for handle in [scheduler.submit(request) for request in requests]]
    assert [one.ids for one in together] == [one.ids for one in alone]
    assert [one.text for one in together] == [one.text for one in alone]
    assert {one.last.reason for one in alone} == {"length"}
    others = [only(scheduler.submit(replace(request, adapter=None))) for request in requests[:ADAPTERS]]
    assert all(one.ids != other.ids for one, other in zip(alone, others, strict=False))


def test_many_threads_ask_at_once(serve, adapters):
    scheduler = loaded(serve(slots=3), adapters)
    requests = crowd(adapters)
    expected = [only(scheduler.submit(request)).ids for request in requests]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda request: only(scheduler.submit(request)).ids, requests))
    assert found == expected
    figures = scheduler.stats()
    assert (figures["running"], figures["waiting"], figures["totals"]["answers_length"]) == (0, 0, 32)


def test_an_event_loop_listens_to_many(serve):
    scheduler = serve()
    requests = [Request(ids, sampling=Sampling(max_new_tokens=5)) for ids in prompts(6)]
    expected = [only(scheduler.submit(request)).text for request in requests]

    async def listen(request):
        return "".join([event.text async for event in scheduler.submit(request)])

    async def everything():
        return await asyncio.gather(*map(listen, requests))

    assert asyncio.run(everything()) == expected


def test_several_answers_to_one_prompt(serve):
    """Answer i is the one that its own seed gives; the prompt is read once for all."""
    scheduler = serve(slots=4, cache=2**20)
    (ids,) = prompts(1, seed=5)
    ids = (ids * 60)[:50]
    drawn = Sampling(temperature=1.0, seed=7, max_new_tokens=6, logprobs=1, prompt_logprobs=0)
    one = ended(scheduler.submit(Request(ids, sampling=drawn, n=4)))
    for choice, found in enumerate(one):
        single = only(scheduler.submit(Request(ids, sampling=replace(drawn, seed=7 + choice))))
        assert (found.ids, found.text) == (single.ids, single.text)
    assert scheduler.stats()["totals"]["prompt_tokens"] == 5 * 50
    again = only(scheduler.submit(Request(ids, sampling=replace(drawn, prompt_logprobs=None))))
    assert again.last.cached == 48
    assert again.ids == one[0].ids
    with pytest.raises(UsageError) as error:
        scheduler.submit(Request(ids, n=5))
    assert error.value.code == "generation.limit"


def slow(scheduler, calls=None):
    """A decoder whose steps wait for a word; `calls` gets what each step was called for and gave."""
    decoder, gate = scheduler.decoder, threading.Semaphore(0)
    real = decoder.decode

    def decode(most=0):
        gate.acquire()
        found = real(most)
        if calls is not None:
            calls.append(found)
        return found

    decoder.decode = decode
    return gate


def test_a_long_prompt_stalls_nobody(serve):
    """Those that go on get a token in every step while it is read, and short prompts behind it come before its end."""
    scheduler, calls = serve(), []
    gate = slow(scheduler, calls)
    running = scheduler.submit(Request(prompts(1)[0][:8], sampling=Sampling(max_new_tokens=60)))
    gate.release()
    next(running)
    long = scheduler.submit(Request(tuple(range(10, 10 + 20 * CHUNK)), sampling=Sampling(max_new_tokens=2)))
    short = scheduler.submit(Request((5, 6, 7), sampling=Sampling(max_new_tokens=2)))
    gate.release(100)
    assert [len(only(one).ids) for one in (long, short, running)] == [2, 2, 59]
    first = {slot: next(i for i, step in enumerate(calls) if slot in {t.slot for t in step}) for slot in range(3)}
    assert first[1] >= 20
    assert first[2] <= 3
    assert all(0 in {token.slot for token in step} for step in calls[: first[1]])


@pytest.mark.parametrize("phase", ["waiting", "reading", "writing"])
def test_what_is_given_up_frees_its_slot_within_a_step(serve, phase):
    scheduler = serve(slots=1)
    gate = slow(scheduler)
    before = scheduler.submit(Request((4, 5, 6), sampling=Sampling(max_new_tokens=2 if phase == "waiting" else 1)))
    long = (9,) * (5 * CHUNK) if phase == "reading" else (9, 8)
    request = Request(long, sampling=Sampling(max_new_tokens=200), n=1)
    handle = scheduler.submit(request)
    gate.release()
    if phase != "waiting":
        only(before)
        gate.release()
    if phase == "writing":
        next(handle)
    handle.cancel()
    gate.release(3)
    last = only(handle).last
    assert (last.reason, last.text) == ("cancelled", "")
    assert only(scheduler.submit(Request((4, 5), sampling=Sampling(max_new_tokens=1)))).last.reason == "length"
    assert scheduler.stats()["running"] == 0
    assert scheduler.decoder.admitted == {}


def test_what_is_late_ends(serve):
    scheduler = serve(slots=1)
    gate = slow(scheduler)
    running = scheduler.submit(Request((4, 5, 6), sampling=Sampling(max_new_tokens=400), timeout=0.2))
    waiting = scheduler.submit(Request((4, 5, 6), timeout=0.1))
    threading.Event().wait(0.25)
    gate.release(400)
    assert only(running).last.reason == only(waiting).last.reason == "timeout"


def test_a_full_queue_says_so_at_once(serve):
    scheduler = serve(slots=1, limits=Limits(queue=2, chunk=CHUNK))
    gate = slow(scheduler)
    taken = []
    with pytest.raises(Busy) as error:
        for _ in range(6):
            taken.append(scheduler.submit(Request((4, 5), sampling=Sampling(max_new_tokens=3))))
    assert 2 <= len(taken) <= 3
    assert error.value.retry >= 1
    gate.release(9)
    assert {len(only(one).ids) for one in taken} == {3}


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (Request(()), "generation.empty"),
        (Request((1,) * 512), "generation.too_long"),
        (Request((1, 4096)), "generation.token"),
        (Request((-1,)), "generation.token"),
        (Request((1,), sampling=Sampling(bias=((10**9, 1.0),))), "generation.token"),
        (Request((1,), sampling=Sampling(max_new_tokens=0)), "generation.limit"),
        (Request((1,), n=0), "generation.limit"),
        (Request((1,), n=17), "generation.limit"),
        (Request((1,), stops=("",)), "generation.limit"),
        (Request((1,), stops=("x",) * 17), "generation.limit"),
        (Request((1,), stops=("x" * 257,)), "generation.limit"),
        (Request((1,) * 200, n=4, sampling=Sampling(max_new_tokens=200)), "generation.limit"),
    ],
)
def test_what_cannot_be_answered_is_refused_before_it_waits(serve, request_, code):
    scheduler = serve(limits=Limits(tokens=1024, chunk=CHUNK))
    with pytest.raises(UsageError) as error:
        scheduler.submit(request_)
    assert error.value.code == code
    assert only(scheduler.submit(Request((1, 2), sampling=Sampling(max_new_tokens=2)))).last.reason == "length"
    with pytest.raises(Unknown):
        scheduler.submit(Request((1,), adapter="nobody"))


def test_memory_for_tokens_is_not_promised_twice(serve):
    """Rows × the longest one stay within the room; what does not fit beside the others waits."""
    scheduler = serve(limits=Limits(tokens=300, chunk=CHUNK))
    most = []
    real = scheduler.decoder.decode

    def decode(budget=0):
        rows = scheduler.loop.rows.values()
        most.append(len(rows) * max(job.tokens(512) for job, _ in rows))
        return real(budget)

    scheduler.decoder.decode = decode
    handles = [scheduler.submit(Request(ids, sampling=Sampling(max_new_tokens=30))) for ids in prompts(12)]
    handles.append(scheduler.submit(Request((5,) * 260, sampling=Sampling(max_new_tokens=30))))
    assert {only(one).last.reason for one in handles} == {"length"}
    assert max(most) <= 300


def between(gate, call):
    """Run something while steps are let through, few of them."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(call)
        while not done.done():
            gate.release()
            threading.Event().wait(0.03)
        return done.result()


def test_a_name_that_changes_hands(serve, adapters):
    """Who has begun, or waits, goes on with what the name stood for; the next one gets the new adapter."""
    scheduler = serve(slots=1)
    first, second = (adapters[name] for name in ("a0", "a1"))
    request = Request((7, 8, 9), "mine", Sampling(max_new_tokens=40))
    expected = []
    for folder in (second, first):
        assert scheduler.load("mine", folder).name == "mine"
        expected.insert(0, only(scheduler.submit(request)).ids)
    assert expected[0] != expected[1]
    gate = slow(scheduler)
    begun, waiting = scheduler.submit(request), scheduler.submit(request)
    gate.release()
    next(begun)
    between(gate, lambda: scheduler.load("mine", second))
    late = scheduler.submit(request)
    between(gate, lambda: scheduler.unload("mine"))
    for call in (lambda: scheduler.submit(request), lambda: between(gate, lambda: scheduler.unload("mine"))):
        with pytest.raises(Unknown):
            call()
    assert scheduler.stats()["running"] == 1
    gate.release(10**6)
    assert only(begun).ids == expected[0][1:]
    assert [only(waiting).ids, only(late).ids] == expected
    assert scheduler.loop.call(lambda: scheduler.decoder.adapters.names) == []
    assert scheduler.stats()["adapters"] == {"names": 0, "versions": 0, "device": 0, "memory": 0}


def test_adapters_beyond_the_memory_are_read_again(serve, adapters, tmp_path):
    """Two on the device, three in memory, eight by name; files that have changed on disk fail alone."""
    limits = Limits(on_device=2, on_host=3, chunk=CHUNK)
    expected = [only(one).ids for one in [loaded(serve(), adapters).submit(each) for each in crowd(adapters)]]
    scheduler = loaded(serve(limits=limits), adapters)
    handles = [scheduler.submit(request) for request in crowd(adapters)]
    assert [only(one).ids for one in handles] == expected
    figures = scheduler.stats()["adapters"]
    assert (figures["device"], figures["memory"], figures["names"]) == (2, 3, 8)
    assert sorted(one["place"] for one in scheduler.adapters()) == ["device"] * 2 + ["disk"] * 5 + ["memory"]
    scheduler = serve(limits=replace(limits, on_device=1, on_host=1))
    place = write(scheduler.decoder.spec.model, tmp_path / "mine", 99)
    scheduler.load("mine", place)
    scheduler.load("other", adapters["a0"])
    (place / adapter.WEIGHTS).write_bytes((adapters["a1"] / adapter.WEIGHTS).read_bytes())
    changed, fine = (scheduler.submit(Request((4, 5), name, Sampling(max_new_tokens=2))) for name in ("mine", "other"))
    assert only(fine).last.reason == "length"
    assert only(changed).last.error.code == "adapter.changed"


def test_the_same_content_under_two_names_is_one_version(serve, adapters):
    scheduler = serve()
    one, other = (scheduler.load(name, adapters["a0"]) for name in ("one", "other"))
    assert one.digest == other.digest
    scheduler.loop.call(lambda: None)  # what was loaded is ready after the step that ran
    assert scheduler.stats()["adapters"] == {"names": 2, "versions": 1, "device": 1, "memory": 1}
    scheduler.unload("one")
    assert only(scheduler.submit(Request((4, 5), "other", Sampling(max_new_tokens=2)))).last.reason == "length"


def test_an_adapter_that_cannot_be_loaded_leaves_everything(serve, adapters, tmp_path):
    scheduler = loaded(serve(), {"a0": adapters["a0"]})
    request = Request((4, 5), "a0", Sampling(max_new_tokens=4))
    before = only(scheduler.submit(request)).ids
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as error:
        scheduler.load("a0", tmp_path / "empty")
    assert error.value.code == "adapter.missing"
    assert only(scheduler.submit(request)).ids == before
    assert scheduler.stats()["adapters"]["versions"] == 1


def test_what_cannot_be_mixed_is_said_and_goes_beside_the_others(serve, base, adapters, tmp_path):
    """An adapter with a head of its own, in a crowd of others and the base."""
    scheduler = loaded(serve(), adapters)
    whole = write(base, tmp_path / "whole", 50, modules_to_save=("lm_head",))
    assert not scheduler.load("whole", whole).mixed
    requests = crowd(adapters)
    requests[::3] = [replace(request, adapter="whole") for request in requests[::3]]
    alone = [only(scheduler.submit(request)).ids for request in requests]
    assert [only(one).ids for one in [scheduler.submit(request) for request in requests]] == alone
    assert [one["mixed"] for one in scheduler.adapters()] == [True] * ADAPTERS + [False]


def test_where_memory_ends_the_newest_gives_way(serve):
    """Others go on as if nothing had been; who is refused hears why; later there is room again."""
    scheduler = serve(slots=8)
    requests = [Request(ids, sampling=Sampling(max_new_tokens=12)) for ids in prompts(5, longest=12)]
    expected = [only(scheduler.submit(request)).ids for request in requests]
    layer = next(one for one in scheduler.decoder.model.modules() if isinstance(one, torch.nn.Linear))
    rows = scheduler.loop.rows
    gate = slow(scheduler)

    def fail(*_):
        if len(rows) > 3:
            raise torch.OutOfMemoryError("no")

    handles = [scheduler.submit(request) for request in requests]
    hook = layer.register_forward_pre_hook(fail)
    gate.release(10**6)
    found = [only(one) for one in handles]
    assert [one.ids for one in found[:3]] == expected[:3]
    errors = [one.last.error.code for one in found if one.last.error]
    assert errors and {*errors} == {"memory.serving"}
    assert [one.ids for one in found if not one.last.error] == [
        ids for one, ids in zip(found, expected, strict=True) if not one.last.error
    ]
    hook.remove()
    assert [only(one).ids for one in [scheduler.submit(request) for request in requests]] == expected


def test_a_failure_nobody_foresaw_is_told_and_survived(serve):
    scheduler = serve()
    real = scheduler.decoder.decode

    def broken(most=0):
        scheduler.decoder.decode = real
        raise ZeroDivisionError

    scheduler.decoder.decode = broken
    request = Request((4, 5), sampling=Sampling(max_new_tokens=3))
    assert only(scheduler.submit(request)).last.error.code == "bug"
    assert only(scheduler.submit(request)).last.reason == "length"


def test_the_end_waits_for_what_runs_and_cuts_off_the_rest(serve):
    scheduler = serve(slots=2)
    requests = [Request(ids, sampling=Sampling(max_new_tokens=5)) for ids in prompts(6)]
    handles = [scheduler.submit(request) for request in requests]
    assert scheduler.close(60)
    assert {only(one).last.reason for one in handles} == {"length"}
    for late in (lambda: scheduler.submit(requests[0]), lambda: scheduler.unload("x")):
        with pytest.raises(Closing):
            late()
    scheduler = serve(slots=2)
    gate = slow(scheduler)
    handles = [scheduler.submit(request) for request in requests]
    gate.release(3)
    threading.Timer(0.2, gate.release, [100]).start()
    assert not scheduler.close(0)
    assert {only(one).last.error.code for one in handles if not one.over} == {"serve.closed"}


def test_what_opening_raises_is_raised(encode):
    def broken():
        raise InputError("no", code="model.missing")

    with pytest.raises(InputError):
        Scheduler(broken, encode)


def test_stop_tokens_and_stop_strings_end_an_answer(serve, encode):
    scheduler = serve()
    request = Request((50, 60, 70), sampling=Sampling(max_new_tokens=30))
    free = only(scheduler.submit(request))
    assert free.last.made == 30
    token = free.ids[12]
    stopped = only(scheduler.submit(replace(request, sampling=replace(request.sampling, stops=frozenset([token])))))
    at = free.ids.index(token)
    assert (stopped.ids, stopped.last.reason, stopped.last.stop) == (free.ids[:at], "stop", token)
    word = free.text[len(free.text) // 2 :][:5]
    stopped = only(scheduler.submit(replace(request, stops=("never said", word))))
    assert stopped.text == free.text[: free.text.index(word)]
    assert (stopped.last.reason, stopped.last.stop) == ("stop", word)
    assert stopped.last.made >= len(stopped.ids)
    assert scheduler.decoder.admitted == {}


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 10}, "size": {"enum": ["small", "large"]}},
    "required": ["name", "size"],
    "additionalProperties": False,
}


def test_answers_follow_a_schema(serve, adapters, encode):
    """Rows with and without one side by side, drawn hot from a model that knows no JSON."""
    scheduler = loaded(serve(), {"a0": adapters["a0"]})
    grammar = scheduler.grammar(SCHEMA)
    assert scheduler.grammar(dict(SCHEMA)) is grammar
    hot = Sampling(temperature=1.5, seed=3, max_new_tokens=80, stops=frozenset(encode.eos_ids))
    plain = only(scheduler.submit(Request((5, 6), sampling=replace(hot, max_new_tokens=9))))
    handles = [scheduler.submit(Request((5, 6), name, hot, n=3, grammar=grammar)) for name in (None, "a0")]
    beside = only(scheduler.submit(Request((5, 6), sampling=replace(hot, max_new_tokens=9))))
    assert beside.ids == plain.ids
    for one in [one for handle in handles for one in ended(handle)]:
        assert one.last.reason == "stop"
        found = json.loads(one.text)
        assert found["size"] in ("small", "large") and len(found["name"]) <= 10


def nested(depth):
    return {"items": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nothing"},
        {"$ref": "https://example.org/schema.json"},
        {"type": "string", "pattern": "("},
        {"minimum": 5, "maximum": 1, "type": "integer"},
        {"enum": [{1, 2}]},
        nested(200),
        {"description": "x" * 70_000},
    ],
    ids=["type", "reference", "open", "empty", "set", "deep", "long"],
)
def test_a_schema_that_cannot_be_used_is_refused(serve, schema):
    with pytest.raises(UsageError) as error:
        serve().grammar(schema)
    assert error.value.code == "generation.schema"
