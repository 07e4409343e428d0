"""Asks a judge, behind any server that speaks OpenAI's chat interface, and keeps on the disk what it said.

The `openai` package does what is easily done wrong here: it tries again, later each time and as the server bids, where
a request ends in a time-out, a lost connection, 408, 409, 429 or 5xx.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from mutua.folders import PARTIAL, FolderError

_HOPELESS = (401, 403, 404)  # no other request will fare better: the key, or the name of the judge, is wrong
_OF_THE_REQUEST = (400, 413, 422)  # says nothing about other requests
_FAILURES_TO_GIVE_UP = 3
_LONGEST_REASON = 300  # characters


class JudgeError(ValueError):
    """The judge gave nothing that can be used. The message is why, and never holds the key."""


@dataclass(frozen=True)
class Said:
    """What a judge said.

    Attributes:
        text: not empty.
        version: what the server calls the model that said it, e.g. "gpt-4o-mini-2024-07-18"; "" where it does not tell.
        kept: the file that it is kept in.
    """

    text: str
    version: str
    kept: Path


class Judge:
    """A judge. Threads may share it.

    The key is read from the environment, OPENAI_API_KEY, and is written nowhere; a server of one's own may need none.

    Args:
        name: of the model, as the server knows it. One with a date in it is the same model tomorrow.
        cache: a folder for what it says. A question that it answered before is not asked again.
        url: of the server, e.g. "http://localhost:8000/v1"; None is OPENAI_BASE_URL, else OpenAI's own.
        concurrency: at most so many requests are under way at a time, however many threads ask.
        timeout: seconds until a server that is silent counts as lost.
        retries: how often a request is repeated that failed for a passing reason.

    Raises:
        JudgeError: there is no key, and no other server than OpenAI's; or the key or the address cannot be one.
        ValueError: a number that cannot be.
        ImportError: the `openai` package is missing.
    """

    def __init__(
        self,
        name: str,
        cache: Path,
        *,
        url: str | None = None,
        concurrency: int = 8,
        timeout: float = 60.0,
        retries: int = 6,
    ) -> None:
        if concurrency < 1 or timeout <= 0 or retries < 0:
            raise ValueError(
                f"concurrency {concurrency}, timeout {timeout:g}, retries {retries}: a judge needs at least one "
                "request at a time, some seconds, and no negative number of retries."
            )
        try:
            import openai
        except ImportError as error:
            raise ImportError('the openai package is not installed: pip install "mutua[judge]"') from error
        url = url or os.environ.get("OPENAI_BASE_URL") or None
        if url is not None and not url.startswith(("http://", "https://")):
            raise JudgeError(
                f"{_without_secrets(url)} is no server of the judge {name!r}: its address begins with http:// or "
                "https://, and most end in /v1, as http://localhost:8000/v1."
            )
        self._key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not self._key and url is None:
            raise JudgeError(
                f"the judge {name!r} needs a key: put it into the environment variable OPENAI_API_KEY, or name a "
                "server of your own that needs none."
            )
        if not re.fullmatch(r"[!-~]*", self._key):
            raise JudgeError("OPENAI_API_KEY holds a space or a character that no key has: copy the key again.")
        self.name = name
        self.cache = cache
        self.concurrency = concurrency
        self._client = openai.OpenAI(api_key=self._key or "none", base_url=url, timeout=timeout, max_retries=retries)
        self.url = _without_secrets(str(self._client.base_url))
        self._tries = f"{retries + 1} times" if retries else "once"
        self._timeout = timeout
        self._slots = threading.BoundedSemaphore(concurrency)
        self._lock = threading.Lock()
        self._versions: Counter[str] = Counter()
        self._failures = 0
        self._gave_up = ""

    def ask(
        self,
        prompt: str,
        *,
        system: str | None = None,
        temperature: float = 0.0,
        max_tokens: int | None = None,
        attempt: int = 0,
    ) -> Said:
        """What the judge says to a prompt; from the disk where it was asked this before.

        Args:
            attempt: a question with another number is another question.

        Raises:
            JudgeError: no answer came, an empty one, or one of another model. Once three questions in a row ended so,
                or the server refused the key or the judge's name, no further one is asked.
            FolderError: what it said cannot be written into the cache.
        """
        prompt = prompt.encode("utf-8", "replace").decode()  # half a character, of a reply that was cut, is no JSON
        messages = [{"role": "system", "content": system}] if system else []
        request: dict[str, Any] = {
            "model": self.name,
            "messages": [*messages, {"role": "user", "content": prompt}],
            "temperature": temperature,
        }
        if max_tokens is not None:
            request["max_tokens"] = max_tokens
        kept = self.cache / f"{_digest({'url': self.url, 'attempt': attempt, **request})}.json"
        said = _remembered(kept)
        if said is None:
            said = self._asked(request, kept)
            answer = {"text": said.text, "version": said.version}
            _remember(kept, {"url": self.url, "attempt": attempt, "request": request, **answer})
        with self._lock:
            self._versions[said.version] += 1
        return said

    def summary(self) -> dict[str, Any]:
        """The judge as a result names it: what was asked for, where, and how often which version answered."""
        return {"name": self.name, "url": self.url, "versions": dict(sorted(self._versions.items()))}

    def _asked(self, request: Mapping[str, Any], kept: Path) -> Said:
        import openai

        with self._slots:
            if self._gave_up:
                raise JudgeError(self._gave_up)
            try:
                completion = self._client.chat.completions.create(**request)
            except openai.APITimeoutError:
                why = f"gave no answer within {self._timeout:g} seconds, {self._tries}"
                raise self._failed(why) from None
            except openai.APIConnectionError as error:
                why = f"cannot be reached at {self.url}, {self._tries}: {error.__cause__ or error}"
                raise self._failed(why) from None
            except openai.APIStatusError as error:
                status = error.status_code
                tried = "" if status in _HOPELESS + _OF_THE_REQUEST else f", {self._tries}"
                why = f"was refused{tried}: {error}"
                raise self._failed(why, hopeless=status in _HOPELESS, counts=status not in _OF_THE_REQUEST) from None
            except (openai.OpenAIError, ValueError) as error:
                raise self._failed(f"answered with something that is no chat completion: {error}") from None
        try:
            choice = completion.choices[0]
            text, ended, version = choice.message.content, choice.finish_reason, completion.model or ""
        except (AttributeError, IndexError, TypeError):
            raise self._failed(f"answered with something that is no chat completion: {completion!r}") from None
        if version and not _is_the_same(self.name, version):
            raise self._failed(f"was asked, and {version!r} answered: name that one as the judge if you mean it")
        if not (text or "").strip():
            raise self._failed(f"said nothing (its answer ended with {ended!r})", counts=False)
        with self._lock:
            self._failures = 0
        return Said(text, version, kept)

    def _failed(self, why: str, *, hopeless: bool = False, counts: bool = True) -> JudgeError:
        """The error of a request; decides whether to ask on.

        Args:
            hopeless: no other request will fare better.
            counts: whether it says anything about other requests.
        """
        if self._key:
            why = why.replace(self._key, "***")  # servers quote it
        why = f"the judge {self.name!r} {' '.join(why.split())[:_LONGEST_REASON]}"
        with self._lock:
            self._failures += counts
            if hopeless or self._failures >= _FAILURES_TO_GIVE_UP:
                self._gave_up = self._gave_up or f"{why} (and was not asked again)"
        return JudgeError(why)


def _is_the_same(asked: str, answered: str) -> bool:
    """Whether a server that was asked for a model answered with it, or with a dated version of it."""
    name = re.escape(asked.rsplit("/", 1)[-1].lower())  # providers in front of many models put their name before it
    return re.fullmatch(rf"{name}(-\d[\w.-]*)?", answered.rsplit("/", 1)[-1].lower()) is not None


def _without_secrets(url: str) -> str:
    """A URL without user, password and query, any of which may hold a key."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _digest(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:32]


def _remembered(path: Path) -> Said | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return Said(str(kept["text"]), str(kept["version"]), path)
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged
        return None


def _remember(path: Path, entry: Mapping[str, Any]) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(entry, ensure_ascii=False, indent=1), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise FolderError(
            f"{path} cannot be written ({error.strerror or error}). What the judge said before is kept: make room and "
            "run the same command again."
        ) from error
