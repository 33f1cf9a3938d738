"""The base class of rewards that ask a server over HTTP."""

import base64
import io
import json
import math
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from rewards.base import Cond, Reward
from rewards.score_store import ScoreStore, key_of
from steer.annotations import AtLeast, Count, NotNegative, Positive
from steer.conditions import Condition
from steer.pixels import to_bytes

LONGEST_WAIT = 60.0  # seconds between two attempts
SHOWN = 120  # characters of an answer in an error


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirection is an error: a key goes to the address that it was given for."""

    def redirect_request(self, *_: Any) -> None:
        return None


class TimedReading(io.RawIOBase):
    """The bytes of an answer until a deadline, however many pieces they come in."""

    def __init__(self, sock: socket.socket, deadline: float):
        self.sock = sock
        self.raw = sock.makefile("rb", buffering=0)
        self.deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.sock.settimeout(left)
        return self.raw.readinto(buffer)

    def close(self) -> None:
        self.raw.close()
        super().close()


class TimedResponse(HTTPResponse):
    """An answer that is read until a deadline, head and body."""

    def __init__(self, sock: socket.socket, *arguments: Any, deadline: float, **keywords: Any):
        super().__init__(sock, *arguments, **keywords)
        self.fp.close()
        self.fp = io.BufferedReader(TimedReading(sock, deadline))


class Timed(urllib.request.AbstractHTTPHandler):
    """Gives a request its timeout for all of the answer; the library's is for each piece of it."""

    def do_open(self, http_class: Any, req: Any, **http_conn_args: Any) -> Any:
        def connection(host: str, timeout: float, **more: Any) -> Any:
            made = http_class(host, timeout=timeout, **more)
            made.response_class = partial(TimedResponse, deadline=time.monotonic() + timeout)
            return made

        made_timed: Any = connection
        return super().do_open(made_timed, req, **http_conn_args)


class TimedHttp(Timed, urllib.request.HTTPHandler):
    """http."""


class TimedHttps(Timed, urllib.request.HTTPSHandler):
    """https."""


OPENER = urllib.request.build_opener(NoRedirect, TimedHttp, TimedHttps)


class Nonsense(ValueError):
    """An answer that arrived and is not what was asked for."""


class Stopped(Exception):
    """A request that is not sent because another one has failed."""


@dataclass(frozen=True)
class Question:
    """A picture to be scored.

    Attributes:
        png: the picture, of 8 bits.
        columns: the texts that belong to it by name, `prompt` the first.
    """

    png: bytes
    columns: Mapping[str, str]

    @property
    def encoded(self) -> str:
        """The picture in base64."""
        return base64.b64encode(self.png).decode()


class RemoteReward(Reward):
    """A reward by a server: batched, concurrent, retried, timed out, and kept on disk.

    What cannot be reached, or answers with a status of 408, 429 or 5xx or with nonsense, is asked
    again, after `backoff`, 2 `backoff`, 4 `backoff`, ... seconds, at most a minute, or after as
    long as the server says by Retry-After. Another status of 4xx stops at once. When all attempts
    have failed, the batches that are under way are finished and kept before the error is raised.

    Pictures are sent as PNG of 8 bits, clamped to [0, 1]. Equal pictures of equal texts are asked
    once.

    Args:
        url: of the server, http or https.
        batch: pictures in one request.
        concurrent: requests at a time.
        timeout: seconds without the whole of an answer after which an attempt has failed.
        retries: further attempts at a request.
        backoff: seconds before the first of them.
        cache: a folder in which scores are kept, for this run and later ones; None keeps none.
        key_variable: the environment variable that holds the server's key, sent as a bearer token;
            none is sent while it is not set.

    Raises:
        ValueError: at construction, for an address that is not http or https, or a cache that
            cannot be written; when called, if the server answers nonsense.
        ConnectionError: if it is down, slow or refuses; with the address.
    """

    differentiable = False

    def __init__(
        self,
        url: str,
        batch: Count,
        concurrent: Count = 4,
        timeout: Positive = 60.0,
        retries: Annotated[int, AtLeast(0)] = 4,
        backoff: NotNegative = 1.0,
        cache: str | Path | None = None,
        key_variable: str | None = None,
    ) -> None:
        super().__init__()
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url: expected http://... or https://..., got {url!r}")
        self.url = url
        self.batch = batch
        self.concurrent = concurrent
        self.timeout = timeout
        self.retries = retries
        self.backoff = backoff
        self.store = None if cache is None else ScoreStore(cache)
        self.key_variable = key_variable
        self.freeze()

    @abstractmethod
    def body(self, questions: Sequence[Question]) -> dict[str, Any]:
        """Build the JSON of a request."""

    @abstractmethod
    def scores(self, answer: Any, questions: Sequence[Question]) -> list[float]:
        """Read the score of each picture in an answer. Raises Nonsense where there is none."""

    @abstractmethod
    def identity(self) -> str:
        """Name what scores depend on beside picture and texts, for the cache."""

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        columns = columns_of(cond, len(x))
        questions = [Question(p, c) for p, c in zip(pngs_of(x), columns, strict=True)]
        keys = [
            key_of(self.identity(), question.png, json.dumps(dict(question.columns)))
            for question in questions
        ]
        known = {} if self.store is None else self.store.get(keys)
        known |= self.ask_all(
            {k: q for k, q in zip(keys, questions, strict=True) if k not in known}
        )
        return torch.tensor([known[key] for key in keys], dtype=x.dtype, device=x.device)

    def ask_all(self, questions: Mapping[str, Question]) -> dict[str, float]:
        """Ask for the scores of these pictures, and keep each batch as it arrives."""
        keys = list(questions)
        batches = [keys[k : k + self.batch] for k in range(0, len(keys), self.batch)]
        found: dict[str, float] = {}
        failed: Exception | None = None
        stop = threading.Event()
        with ThreadPoolExecutor(self.concurrent) as pool:
            asked = {
                pool.submit(self.ask, [questions[k] for k in part], stop): part for part in batches
            }
            try:
                for future in as_completed(asked):
                    try:
                        scored = dict(zip(asked[future], future.result(), strict=True))
                    except Stopped:
                        continue
                    except (OSError, ValueError) as error:
                        failed = failed or error
                        stop.set()
                        continue
                    if self.store is not None:
                        self.store.put(scored)
                    found |= scored
            finally:  # also at Ctrl-C
                stop.set()
        if failed is not None:
            raise failed
        return found

    def ask(self, questions: Sequence[Question], stop: threading.Event) -> list[float]:
        """Ask for the scores of one batch, in several attempts unless the run has failed."""
        if stop.is_set():
            raise Stopped
        data = json.dumps(self.body(questions)).encode()
        for attempt in range(self.retries + 1):
            try:
                return self.checked(self.scores(self.post(data), questions), len(questions))
            except (OSError, HTTPException, Nonsense) as error:
                last = attempt == self.retries or not worth_another(error)
                if last or stop.wait(wait_after(error, self.backoff * 2**attempt)):
                    stop.set()
                    raise self.explained(error, attempt + 1) from error
        raise AssertionError("the last attempt returns or raises")

    def post(self, data: bytes) -> Any:
        """Send one request and return the JSON of its answer."""
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(self.key_variable) if self.key_variable else None
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.address(), data, headers)
        with OPENER.open(request, timeout=self.timeout) as answer:
            text = answer.read()
        try:
            return json.loads(text)
        except ValueError as error:
            raise Nonsense(f"expected JSON, got {shown(text.decode(errors='replace'))}") from error

    def address(self) -> str:
        """Return the address of requests."""
        return self.url

    def checked(self, scores: list[float], expected: int) -> list[float]:
        """Return the scores if there is a finite one for each picture. Raises Nonsense if not."""
        if len(scores) != expected:
            raise Nonsense(f"expected {expected} scores, got {len(scores)}")
        for score in scores:
            if isinstance(score, bool) or not isinstance(score, int | float):
                raise Nonsense(f"expected a number as a score, got {shown(score)}")
            if not math.isfinite(score):
                raise Nonsense(f"expected a finite score, got {score}")
        return [float(score) for score in scores]

    def explained(self, error: Exception, attempts: int) -> Exception:
        """Describe the failure in one line."""
        who = f"{type(self).__name__}: {self.address()}"
        times = f"after {attempts} attempt{'s'[: attempts > 1]}"
        kept = " (finished scores are kept)" if self.store is not None else ""
        if isinstance(error, Nonsense):
            return ValueError(f"{who} answers nonsense {times}: {error}{kept}")
        if isinstance(error, urllib.error.HTTPError):
            said = shown(body_of(error))
            return ConnectionError(f"{who} answers {error.code} {times}: {said}{kept}")
        if slow(error):
            return ConnectionError(
                f"{who} is slow: no whole answer within {self.timeout:g} s {times}{kept}: "
                "raise timeout=, or lower batch= or concurrent="
            )
        reason = getattr(error, "reason", None) or error
        return ConnectionError(f"{who} is down {times} ({reason}){kept}: start it, or correct url=")

    def extra_repr(self) -> str:
        return f"{self.url!r}, batch={self.batch}, concurrent={self.concurrent}"


def worth_another(error: Exception) -> bool:
    """Whether a failed attempt may succeed later."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (408, 429) or error.code >= 500
    return True


def wait_after(error: Exception, seconds: float) -> float:
    """Return the seconds to wait, as many as the server says if it does."""
    said = error.headers.get("Retry-After", "") if isinstance(error, urllib.error.HTTPError) else ""
    return min(float(said) if said.isdigit() else seconds, LONGEST_WAIT)


def body_of(error: urllib.error.HTTPError) -> str:
    """Read what a server says of an error, as far as it does in time."""
    try:
        return error.read().decode(errors="replace")
    except (OSError, HTTPException):
        return ""


def slow(error: Exception) -> bool:
    """Whether an attempt ran out of time."""
    return isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", 0), TimeoutError)


def shown(value: Any) -> str:
    """Describe an answer in a few words."""
    text = " ".join(str(value).split())
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}...")


def pngs_of(x: Float[Tensor, "b c h w"]) -> list[bytes]:
    """Write pictures in [0, 1] as PNG files of 8 bits. Raises ValueError for other channels."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(
            f"expected images (b, 1 or 3, h, w) to send, got {tuple(x.shape)}: decode them first"
        )
    pixels = to_bytes(x).cpu().permute(0, 2, 3, 1)
    return [png_of(Image.fromarray(image.squeeze(-1).numpy())) for image in pixels]


def png_of(image: Image.Image) -> bytes:
    """Write one picture as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def embeds(field: Any) -> bool:
    """Whether a field has more than a number for each sample."""
    return isinstance(field, Tensor) and field.ndim > 1


def texts_of(field: Any) -> Sequence[str]:
    """Write the entries of a field as texts."""
    return [str(entry) for entry in field.tolist()] if isinstance(field, Tensor) else field


def columns_of(cond: Cond, samples: int) -> list[dict[str, str]]:
    """Return what a server is told of each sample, by name.

    `prompt`, the text fields of a Condition, and numbers, such as `label`; embeddings stay here.

    Raises:
        ValueError: for a condition of embeddings alone.
    """
    fields: dict[str, Sequence[str]] = {}
    if isinstance(cond, Condition):
        fields = {k: texts_of(v) for k, v in cond.fields.items() if not embeds(v)}
    elif isinstance(cond, Tensor):
        if embeds(cond):
            raise ValueError(
                f"a server is sent texts and numbers, not embeddings {tuple(cond.shape)}: give the"
                " prompts as texts, or as the field texts of a steer.Condition"
            )
        fields = {"label": texts_of(cond)}
    elif isinstance(cond, list | tuple):
        fields = {"texts": [str(entry) for entry in cond]}
    named = {"prompt" if name == "texts" else name: values for name, values in fields.items()}
    return [{name: values[k] for name, values in named.items()} for k in range(samples)]
