"""`Model`: one language model behind an OpenAI-compatible endpoint. Every answer is streamed, bounded and timed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from shared.errors import ConfigurationError
from worker.model.errors import ModelError, ModelProtocolError, ModelTimeoutError, ModelUnavailableError
from worker.model.reply import Reply, ReplyBuilder
from worker.model.settings import NAME, ModelSettings

if TYPE_CHECKING:
    import ssl

    import openai

Message = Mapping[str, Any]
Record = Callable[[str, int, int], None]
T = TypeVar("T", bound=BaseModel)

MAX_REPLY_TOKENS = 4096
MAX_REPLY_BYTES = 16 * 1024 * 1024  # on the wire: a piece of three characters has some 300 bytes
CONNECT_TIMEOUT_S = 10.0
RETRIES = 2  # of requests that got no answer, 429 or 5xx; after `Retry-After`, or 0.5 s, 1 s
COMPLETE_TRIES = 2
_TELLING = (400, 404, 413, 422)  # what the request did wrong; other answers may tell of the operator's account
_MAX_DETAIL = 300


class Model:
    """Answers messages. Made for one run; holds no connection between two answers.

    Args:
        settings: which model.
        record: called with the model's name and the input and output tokens of each answer.
    """

    def __init__(self, settings: ModelSettings, record: Record | None = None) -> None:
        self._settings = settings
        self._record = record

    @classmethod
    def from_environment(cls, record: Record | None = None) -> Model | None:
        """Returns the model that `LANEWISE_MODEL` names, None if it is not set.

        Args:
            record: `run.record_usage`, so that the run shows what it used.

        Raises:
            ModelUnsetError: there is a model but no key.
        """
        settings = ModelSettings.read()
        return None if settings is None else cls(settings, record)

    @property
    def name(self) -> str:
        """The model, as the endpoint knows it."""
        return self._settings.name

    async def complete(self, messages: Sequence[Message], schema: type[T]) -> T:
        """Returns an answer of a given form; a model that misses it is told so, once.

        Args:
            messages: as the protocol has them: `{"role": "system"|"user"|"assistant", "content": "..."}`.
            schema: what the answer has to be.

        Raises:
            ModelError: there is none, within the limits; rules should take over.
        """
        wanted = schema.model_json_schema()
        form = {"type": "json_schema", "json_schema": {"name": schema.__name__[:64], "schema": wanted}}
        # Said in words as well: many endpoints do not know `response_format`.
        asked = [*messages, {"role": "system", "content": f"Answer with JSON only, of this JSON Schema: {wanted}"}]
        for _ in range(COMPLETE_TRIES):
            reply = await self.reply(asked, response_format=form)
            try:
                return schema.model_validate_json(_json_in(reply.text))
            except ValidationError as error:
                problem = _problem(error)
            asked += [{"role": "assistant", "content": reply.text},
                      {"role": "user", "content": f"That is not of the schema: {problem}. Answer again."}]  # fmt: skip
        raise ModelProtocolError(f"the model's answer is not of the schema {schema.__name__}: {problem}")

    async def reply(
        self,
        messages: Sequence[Message],
        on_text: Callable[[str], None] = lambda _: None,
        **options: Any,
    ) -> Reply:
        """Returns the whole answer; its text is handed to `on_text` piece by piece as it comes.

        Args:
            messages: as the protocol has them.
            on_text: called with each piece of text.
            options: further fields of the request, e.g. `tools`.

        Raises:
            ModelError: there is none, within the limits.
        """
        limit_s = self._settings.timeout_s
        try:
            async with asyncio.timeout(limit_s) as limit, self._translated_errors():
                reply = await self._stream(messages, on_text, options)
        except TimeoutError:
            if not limit.expired():
                raise
            raise ModelTimeoutError(f"the model was not done within {limit_s:g} s") from None
        if self._record is not None:
            await asyncio.to_thread(self._record, self.name[:200], reply.input_tokens, reply.output_tokens)
        return reply

    async def _stream(
        self, messages: Sequence[Message], on_text: Callable[[str], None], options: Mapping[str, Any]
    ) -> Reply:
        builder = ReplyBuilder()
        async with self._client() as client:
            chunks = await client.chat.completions.create(
                model=self.name,
                messages=cast("Any", list(messages)),  # what is wrong in them the endpoint says
                stream=True,
                stream_options={"include_usage": True},
                extra_body={self._limit_field: MAX_REPLY_TOKENS, **options},
            )
            async with chunks:
                async for chunk in chunks:
                    if text := builder.add(chunk):
                        on_text(text)
                    if builder.full:
                        break
        return builder.finish()

    @property
    def _limit_field(self) -> str:
        # OpenAI's newer models refuse the name that all other endpoints know.
        return "max_completion_tokens" if self._settings.url is None else "max_tokens"

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[openai.AsyncOpenAI]:
        import httpx2  # noqa: PLC0415 - a run that asks no model must not pay for it
        import openai  # noqa: PLC0415 - the same

        given = self._settings
        timeout = httpx2.Timeout(given.silence_s, connect=min(CONNECT_TIMEOUT_S, given.silence_s))
        # No redirects: the messages are for the endpoint that was configured.
        http = httpx2.AsyncClient(
            verify=_tls(), timeout=timeout, event_hooks={"response": [_bound]}, follow_redirects=False
        )
        async with openai.AsyncOpenAI(
            api_key=given.key or "none", base_url=given.url, timeout=timeout, max_retries=RETRIES, http_client=http
        ) as client:
            yield client

    @asynccontextmanager
    async def _translated_errors(self) -> AsyncIterator[None]:
        import openai  # noqa: PLC0415 - the same

        try:
            yield
        except openai.APITimeoutError:
            raise ModelTimeoutError(f"the model was silent for {self._settings.silence_s:g} s") from None
        except openai.APIConnectionError:
            raise ModelUnavailableError("the model's endpoint cannot be reached, or broke the connection") from None
        except openai.APIStatusError as error:
            raise self._status_error(error) from None
        except openai.APIError:
            raise ModelUnavailableError("the model's endpoint reported an error in the middle of its answer") from None
        except (openai.OpenAIError, ValueError):
            raise ModelProtocolError("the model's answer is not of the protocol: it cannot be read") from None

    def _status_error(self, error: openai.APIStatusError) -> ModelError:
        status = error.status_code
        if status == 429:  # noqa: PLR2004 - the status itself
            after = error.response.headers.get("retry-after", "")
            hint = f"; it asks to wait {after[:20]} s" if after.isdigit() else ""
            return ModelUnavailableError(f"the model's endpoint is at its rate limit (429){hint}")
        if status in (401, 403):
            return ModelUnavailableError(f"the model's endpoint refuses the key ({status})")
        detail = f": {self._scrubbed(str(error))[:_MAX_DETAIL]}" if status in _TELLING else ""
        return ModelUnavailableError(f"the model's endpoint answered {status}{detail}")

    def _scrubbed(self, text: str) -> str:
        key = self._settings.key
        return text.replace(key, "[key]") if key else text


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Returns whom to trust; 20 ms to read, so it is shared by all sandboxes. It knows no key and no connection."""
    import httpx2  # noqa: PLC0415 - the same

    return httpx2.create_ssl_context()


async def _bound(response: Any) -> None:
    """Has a response end with an error above the limit of bytes, whatever line or body it is in the middle of."""
    response.stream = _bounded_stream(response.stream)


def _bounded_stream(stream: Any) -> Any:
    import httpx2  # noqa: PLC0415 - the same

    class Bounded(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for part in stream:
                size += len(part)
                if size > MAX_REPLY_BYTES:
                    raise httpx2.ReadError("too large")
                yield part

        async def aclose(self) -> None:
            await stream.aclose()

    return Bounded()


def _json_in(text: str) -> str:
    """Returns the JSON object in a text: models like to put a fence, or a word, around it."""
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else text


def _problem(error: ValidationError) -> str:
    items = error.errors(include_input=False, include_url=False)[:5]
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}".lstrip(": ") for item in items)[:_MAX_DETAIL]


def prepare() -> None:
    """Imports the library and what it imports at first use: in the zygote, so that no sandbox has to.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        import openai  # noqa: PLC0415 - only where a model is configured
    except ModuleNotFoundError:
        raise ConfigurationError(f"{NAME} is set, but the library is missing: install lanewise[llm]") from None
    openai.AsyncOpenAI(api_key="none").chat.completions  # noqa: B018 - loads the modules behind it
    _tls()


if os.environ.get(NAME):
    prepare()
