"""The routes. Each is a few lines: a body that was checked, the service, an answer in OpenAI's form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette import types
from starlette.exceptions import HTTPException

from truetune import __version__
from truetune.serve import embeddings, openai, prompts, refusals, replies, requests
from truetune.serve.bodies import (
    ChatBody,
    ClassifyBody,
    CompletionBody,
    Drawing,
    EmbeddingsBody,
    GenerateBody,
    LoadBody,
    Message,
    TokenizeBody,
    UnloadBody,
)
from truetune.serve.guard import Guard, Rules
from truetune.serve.metrics import TYPE
from truetune.serve.names import Served
from truetune.serve.openai import Head, Json
from truetune.serve.refusals import Refusal
from truetune.serve.service import Asked, Service
from truetune.serve.streams import Stream, events, unless_gone

FINGERPRINT = f"truetune-{__version__}"
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": replies.ErrorReply, "description": text}
    for status, text in {
        400: "It cannot be answered as it is.",
        401: "The key is missing or wrong.",
        403: "Host or Origin is not this server's.",
        404: "No such model.",
        408: "It took too long.",
        413: "It is too large.",
        429: "There is no room: try again later.",
        500: "A bug.",
        503: "The server is ending.",
    }.items()
}


class Changes(Protocol):
    """What loads and unloads adapters by name."""

    async def load(self, name: str, address: str, *, inplace: bool = False) -> object: ...

    async def unload(self, name: str) -> None: ...


def application(service: Service, rules: Rules) -> Guard:
    """The whole server as an ASGI application."""
    return Guard(routed(service), rules)


def routed(service: Service) -> Counted:
    """All routes, without the guard."""
    app = framed()
    for add in (speaking, reading, listing, watching):
        add(app, service)
    changing(app, service)
    described = app.openapi
    app.openapi = lambda: page(described())  # type: ignore[method-assign]
    return Counted(app, service)


def framed() -> FastAPI:
    """An application without routes, whose errors are OpenAI's."""
    app = FastAPI(
        title="TrueTune",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        responses=REFUSALS,
        separate_input_output_schemas=False,
    )
    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, missed)
    app.add_exception_handler(Exception, broken)
    return app


def page(found: Json) -> Json:
    """The OpenAPI page without FastAPI's own 422: what is not valid is 400 here, and every refusal is JSON."""
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorReply"}}}
    for operations in found["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            for status, answer in operation["responses"].items():
                if status >= "400" and operation["operationId"] != "health_health_get":
                    answer["content"] = error
    for name in ("HTTPValidationError", "ValidationError"):
        found["components"]["schemas"].pop(name, None)
    return found


def speaking(app: FastAPI, service: Service) -> None:
    """Routes that write."""

    @app.post("/v1/chat/completions", response_model=replies.ChatReply, responses=STREAMED)
    async def chat(body: ChatBody, request: Request) -> Response:
        """An answer to a conversation."""
        served = service.writer(body.model)
        ids = await service.work(prompts.conversation, served, body.messages)
        asked = await ask(service, served, body, [prompts.Prompt(ids)])
        return await chat_answer(service, asked, body, request)

    @app.post("/v1/completions", response_model=replies.TextReply, responses=STREAMED)
    async def complete(body: CompletionBody, request: Request) -> Response:
        """What follows a text, or token ids."""
        served = service.writer(body.model)
        found = await service.work(
            lambda: [prompts.completion(served, one, body.add_special_tokens) for one in body.prompts]
        )
        asked = await ask(service, served, body, found)
        return await text_answer(service, asked, body, request)

    @app.post("/api/inference/generate", response_model=replies.Generated)
    async def generate(body: GenerateBody, request: Request) -> Response:
        """One answer, in TrueTune's own words."""
        if (body.prompt is None) == (body.messages is None):
            raise Refusal(400, "Give `prompt` or `messages`, one of the two.", code="invalid_value", param="prompt")
        messages = body.messages or [Message(role="user", content=body.prompt or "")]
        given = body.model_dump(exclude={"prompt", "messages", "max_new_tokens"})
        whole = ChatBody.model_validate(given | {"messages": messages, "max_tokens": body.max_new_tokens})
        served = service.writer(body.model)
        ids = await service.work(prompts.conversation, served, whole.messages)
        (asked,) = await ask(service, served, whole, [prompts.Prompt(ids)])
        (choice,) = await unless_gone(request, service.whole([asked]))
        answer = {"model": body.model, "text": choice.text, "finish_reason": choice.reason}
        return JSONResponse(answer | {"seed": asked.request.sampling.seed, "usage": counted([asked])})


def listing(app: FastAPI, service: Service) -> None:
    """Routes that say what there is."""

    @app.get("/v1/models", response_model=replies.ModelList)
    async def models() -> Json:
        """The base and every adapter."""
        cards = [served.card(service.context) for served in service.names.all()]
        return {"object": "list", "data": [*cards, *(one.card(name) for name, one in service.readers.items())]}

    @app.get("/v1/models/{name:path}", response_model=replies.ModelCard)
    async def model(name: str) -> Json:
        """One of them."""
        if name in service.readers:
            return service.readers[name].card(name)
        return service.model(name).card(service.context)

    @app.post("/tokenize", response_model=replies.Tokens)
    async def tokenize(body: TokenizeBody) -> Json:
        """The ids of a text, or of a conversation as it is served."""
        served = service.model(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise Refusal(400, "Give `prompt` or `messages`, one of the two.", code="invalid_value", param="prompt")
        if body.prompt is not None:
            found = await service.work(prompts.completion, served, body.prompt, body.add_special_tokens)
            ids = found.ids
        else:
            ids = await service.work(prompts.conversation, served, body.messages)
        return {"count": len(ids), "max_model_len": service.context, "tokens": ids}


def reading(app: FastAPI, service: Service) -> None:
    """Routes that read and write nothing: classes and embeddings."""

    @app.post("/v1/classify", response_model=replies.ClassReply)
    async def classify(body: ClassifyBody) -> Json:
        """The class of each text, with the probability of every one."""
        found = service.classifiers.get(body.model)
        if found is None:
            if body.model not in service.embedders:
                service.model(body.model)
            message = "This model sorts nothing into classes."
            raise Refusal(400, message, code="no_classes", param="model")
        if service.closing:
            raise refusals.draining()
        texts = [body.input] if isinstance(body.input, str) else body.input
        answers, tokens = await service.work(found.classify, texts)
        head = Head.fresh("classify", body.model, FINGERPRINT)
        about = {"id": head.id, "object": "list", "created": head.created, "model": body.model}
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return about | {"classes": found.names, "data": answers, "usage": usage}

    @app.post("/v1/embeddings", response_model=replies.EmbeddingsReply)
    async def embed(body: EmbeddingsBody, request: Request) -> Response:
        """What a text is about, as a vector: texts that are alike have vectors that are."""
        found = service.embedder(body.model)
        embeddings.check_width(body.dimensions, found.width)
        texts = await service.work(found.prepared, body.inputs)
        vectors = await unless_gone(request, service.read(found.embed(texts)))
        tokens = sum(map(len, texts))
        service.metrics.prompt.inc(tokens)
        told = embeddings.answer, body.model, vectors, tokens, body.encoding_format
        return JSONResponse(await service.work(*told))


def changing(app: FastAPI, service: Changes) -> None:
    """Routes that load and unload, as vLLM has them."""

    @app.post("/v1/load_lora_adapter", response_class=PlainTextResponse)
    async def load(body: LoadBody) -> PlainTextResponse:
        """Serve an adapter under a name from now on."""
        if not body.lora_name or not body.lora_path:
            message = "Both 'lora_name' and 'lora_path' must be provided."
            raise Refusal(400, message, code="InvalidUserInput")
        await service.load(body.lora_name, body.lora_path, inplace=bool(body.load_inplace))
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @app.post("/v1/unload_lora_adapter", response_class=PlainTextResponse)
    async def unload(body: UnloadBody) -> PlainTextResponse:
        """Forget a name; answers that are being written go on."""
        if not body.lora_name:
            raise Refusal(400, "'lora_name' needs to be provided to unload a LoRA adapter.", code="InvalidUserInput")
        await service.unload(body.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


def watching(app: FastAPI, service: Service) -> None:
    """Routes for whoever watches over the server."""

    @app.get("/health", response_model=replies.Health)
    async def health() -> JSONResponse:
        """200 while requests are taken, 503 while the server ends."""
        status = "draining" if service.closing else "ok"
        return JSONResponse({"status": status}, 503 if service.closing else 200)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Figures in Prometheus' text format."""
        return Response(service.metrics.text(), media_type=TYPE)


async def ask(service: Service, served: Served, body: Drawing, found: Sequence[prompts.Prompt]) -> list[Asked]:
    """Take on all prompts of a request, or none."""
    drawn = await service.work(prompts.drawing, served, body)
    schema = prompts.schema(body)
    grammar = await service.work(service.scheduler.grammar, schema) if schema is not None else None
    n, silent, echoed = body.n or 1, body.max_tokens == 0, False
    if isinstance(body, CompletionBody):
        drawn, echoed = prompts.scoring(body, drawn), bool(body.echo)
    asked: list[Asked] = []
    try:
        for place, prompt in enumerate(found):
            request = requests.Request(tuple(prompt.ids), None, drawn, body.stops, n, grammar)
            echo = prompt.text if echoed else ""
            asked.append(service.submit(served, request, first=place * n, echo=echo, silent=silent))
    except BaseException:
        for each in asked:
            service.release(each)
        raise
    return asked


async def chat_answer(service: Service, asked: list[Asked], body: ChatBody, request: Request) -> Response:
    head, logprobs = Head.fresh("chatcmpl", body.model, FINGERPRINT), bool(body.logprobs)
    if not body.stream:
        choices = await unless_gone(request, service.whole(asked))
        return JSONResponse(openai.chat(head, choices, counted(asked), logprobs=logprobs))
    opening = [openai.chat_opening(head, index) for index in range(body.n or 1)]
    told = events(
        service,
        asked,
        opening,
        lambda piece: openai.chat_chunk(head, piece, logprobs=logprobs),
        lambda: closing(head, "chat.completion.chunk", asked, body),
    )
    return Stream(service, asked, told)


async def text_answer(service: Service, asked: list[Asked], body: CompletionBody, request: Request) -> Response:
    head, logprobs = Head.fresh("cmpl", body.model, FINGERPRINT), body.logprobs is not None
    if not body.stream:
        choices = await unless_gone(request, service.whole(asked))
        return JSONResponse(openai.text(head, choices, counted(asked), logprobs=logprobs))
    offsets: dict[int, int] = {}

    def spoken(piece: openai.Piece) -> Json:
        offset = offsets.get(piece.index, 0)
        offsets[piece.index] = offset + sum(len(each.text) for each in piece.spelled)
        return openai.text_chunk(head, piece, offset, logprobs=logprobs)

    told = events(service, asked, [], spoken, lambda: closing(head, "text_completion", asked, body))
    return Stream(service, asked, told)


def counted(asked: Sequence[Asked]) -> Json:
    return openai.usage(sum(len(each.request.ids) for each in asked), sum(each.made for each in asked))


def closing(head: Head, kind: str, asked: Sequence[Asked], body: Drawing) -> list[Json]:
    wanted = body.stream_options is not None and body.stream_options.include_usage
    return [openai.usage_chunk(head, kind, counted(asked))] if wanted else []


STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"description": "The answer; with `stream` server-sent events.", "content": {"text/event-stream": {}}}
}


async def refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return JSONResponse(error.body, error.status, error.headers)


async def invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return await refused(request, refusals.of_validation(error.errors()))


async def missed(request: Request, error: Exception) -> JSONResponse:
    """No such route, or not by this method."""
    assert isinstance(error, HTTPException)
    texts = {404: "There is no such route.", 405: "This route knows other methods."}
    text = texts.get(error.status_code, "The request is not valid.")
    return await refused(request, Refusal(error.status_code, text, headers=error.headers))


async def broken(request: Request, error: Exception) -> JSONResponse:
    """A bug of ours: what it says stays in the log."""
    return await refused(request, Refusal(500, "The server failed at this request."))


class Counted:
    """Counts answers by route and status."""

    def __init__(self, app: types.ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: types.Scope, receive: types.Receive, send: types.Send) -> None:
        async def counting(message: types.Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                self.service.metrics.answers.labels(route, str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counting)
