"""One file over HTTP into ``<name>.part``, resumed after a break (RFC 9110, sections 13.1.5 and 14).

What the server says about the file (size, ETag, date) is kept beside the part. A file that changed meanwhile is fetched
from the start. Bytes of two versions are never joined, unless the caller checks a known sha256 afterwards.
"""

from __future__ import annotations

import email.utils
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel

from ..errors import MissingCapabilityError
from ..files import free_space, read_json, write_json
from ..progress import Progress
from ..version import __version__
from .pace import Pace, Patience, TransientError, brief

if TYPE_CHECKING:
    import httpx

MB = 1_000_000
LARGEST = 8_000 * MB  # many times any published teacher; an endless answer must not fill the disk
REDIRECTS = 10
QUOTE_SECONDS = 5.0  # longest time for reading an answer that is only quoted
_NUMBER = r"[0-9]{1,15}"  # bytes of a file
QUOTED = 160  # characters of a server's answer that a message shows
PAGES = ("text/html", "text/xml", "application/xhtml+xml", "application/xml", "application/json")
TRANSIENT = (408, 425, 429)  # with 5xx: the statuses after which another attempt may succeed


def _repeatable(text: str) -> str:
    """Return an ETag or date if a request can name a version by it, else "".

    Weak ETags do not promise the same bytes, and some servers send characters that a client must not send back.
    """
    return text if text.isascii() and text.isprintable() and not text.startswith("W/") else ""


class _Part(BaseModel, frozen=True, strict=True, extra="forbid"):
    """The beginning of a file: its bytes on the disk, and what the server said about the whole file."""

    size: int = 0
    total: int | None = None
    etag: Annotated[str, AfterValidator(_repeatable)] = ""
    modified: Annotated[str, AfterValidator(_repeatable)] = ""

    @property
    def complete(self) -> bool:
        return 0 < self.size == self.total

    def same_file(self, other: _Part) -> bool:
        """Return whether both agree on every value that both know."""
        pairs = ((self.total, other.total), (self.etag, other.etag), (self.modified, other.modified))
        return all(mine == theirs for mine, theirs in pairs if mine and theirs)


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """The file at ``url`` on its way into ``part``. ``progress`` counts units of 1e6 bytes.

    ``pinned``: the caller checks a known sha256 afterwards. ``remedy`` ends the message of every refusal.
    """

    url: str
    part: Path
    say: Callable[[str], None]
    progress: Progress
    patience: Patience
    pinned: bool
    remedy: str

    @cached_property
    def _pace(self) -> Pace:
        return Pace(self.patience)

    def run(self) -> None:
        """Fill ``part``, over as many connections as it takes, continuing what an earlier run left.

        Raises MissingCapabilityError when the address cannot be reached, does not give the file or stays unusable, and
        OSError when the disk is full. In each of these cases, and when it is interrupted, ``part`` stays.
        """
        failures, most = 0, self._begun().size
        with self._client() as client:
            while True:
                try:
                    return self._attempt(client)
                except TransientError as error:
                    last = error
                size = self._begun().size
                failures, most = (1, size) if size >= most + self.patience.least else (failures + 1, most)
                pause = self.patience.pause * 2 ** (failures - 1) if last.wait is None else last.wait
                if failures >= self.patience.attempts or pause > self.patience.longest_pause:
                    often = f", {failures} times in a row" if failures > 1 else ""
                    kept = f" {size / MB:.1f} MB are kept: the same command continues from there." if size else ""
                    raise self._refusal(f"{last}{often}", kept) from last
                self.say(f"{last}; trying again in {pause:.0f} s")
                time.sleep(pause)

    def _refusal(self, what: str, more: str = "") -> MissingCapabilityError:
        return MissingCapabilityError(f"{self.url} could not be fetched: {brief(what)}", f"{self.remedy}{more}")

    def _begun(self) -> _Part:
        """Return what an earlier attempt left; an empty part if it is not known to belong to the same file."""
        try:
            kept = _Part.model_validate({**read_json(note_of(self.part)), "size": self.part.stat().st_size})
        except (OSError, ValueError, TypeError):
            return _Part()
        whole_or_named = kept.complete or kept.etag or kept.modified or self.pinned
        return kept if whole_or_named and (kept.total is None or kept.size <= kept.total) else _Part()

    def _drop(self) -> None:
        self.part.unlink(missing_ok=True)
        note_of(self.part).unlink(missing_ok=True)

    def _client(self) -> httpx.Client:
        import httpx

        def stay_secure(request: httpx.Request) -> None:
            if request.url.scheme not in (("https",) if self.url.startswith("https:") else ("http", "https")):
                address = f"{request.url.scheme}://{request.url.host}"
                raise self._refusal(f"it leads to {address}, which is not safe to follow")

        try:
            return httpx.Client(
                follow_redirects=False,  # httpx would read the whole body of each
                timeout=httpx.Timeout(self.patience.stall, connect=self.patience.connect),
                # identity: a range of a compressed answer is not a range of the file
                headers={"User-Agent": f"dcp-deploy/{__version__}", "Accept-Encoding": "identity"},
                event_hooks={"request": [stay_secure]},
            )
        except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:  # a proxy or certificates it cannot use
            raise self._refusal(f"the proxy or certificate settings of this machine do not work: {error}") from error

    def _attempt(self, client: httpx.Client) -> None:
        """Make one connection. Raises TransientError if another may succeed, MissingCapabilityError if not."""
        begun, headers = self._begun(), {}
        if begun.complete:
            return
        if begun.size:
            headers["Range"] = f"bytes={begun.size}-"
            if version := begun.etag or begun.modified:
                headers["If-Range"] = version
        elif self.part.exists():
            self.say("starting over: it is not known whether the bytes kept so far belong to the same file")
        with self._translated_errors(), self._answer(client, headers) as response:
            if response.status_code == 416 and begun.size:
                end = f"bytes */{begun.size}"
                if response.headers.get("content-range") == end and begun.total in (None, begun.size):
                    return
                self._drop()
                raise TransientError("the server's file ends before the part kept so far; starting over")
            self._receive(response, self._checked(response, begun))

    @contextmanager
    def _answer(self, client: httpx.Client, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """Yield the last answer after all redirects, whose bodies are not read."""
        request = client.build_request("GET", self.url, headers=headers, extensions={"trace": self._pace.watch})
        for _ in range(REDIRECTS + 1):
            self._pace.begin()
            response = client.send(request, stream=True)
            self._pace.answer()
            try:
                if response.next_request is None:
                    yield response
                    return
                request = response.next_request
            finally:
                response.close()
        raise self._refusal(f"it was redirected more than {REDIRECTS} times")

    def _checked(self, response: httpx.Response, begun: _Part) -> _Part:
        """Return the part that the answer's body continues, ``begun`` or an empty one. Raises if it is not the file."""
        status, headers = response.status_code, response.headers
        answer = f"the server answered {status} {response.reason_phrase}".strip()
        if status in TRANSIENT or status >= 500:
            raise TransientError(answer, _retry_after(response))
        if status not in (200, 206):
            raise self._refusal(answer + _quote(response.iter_raw()))
        encoding = headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise self._refusal(f"the server encodes it ({encoding}), although no encoding was accepted")
        if headers.get("content-type", "").split(";")[0].strip().lower() in PAGES:
            raise self._page(response, response.iter_raw())
        span = re.fullmatch(rf"bytes ({_NUMBER})-{_NUMBER}/({_NUMBER}|\*)", headers.get("content-range", ""))
        total = headers.get("content-length", "*") if status == 200 else span[2] if span else "*"
        if total != "*" and not re.fullmatch(_NUMBER, total):
            raise self._refusal(f"the server says that it has {total[:QUOTED]} bytes, which is not a size")
        described = _Part(
            total=None if total == "*" else int(total),
            etag=headers.get("etag", ""),
            modified=headers.get("last-modified", ""),
        )
        if status == 200:
            if begun.size:
                self.say(f"starting over: the server sends the whole file, not the rest after {begun.size / MB:.1f} MB")
            return described
        if span is None or int(span[1]) != begun.size or not begun.same_file(described):
            self._drop()
            raise TransientError("the file changed on the server; starting over")
        return begun if begun.total else described.model_copy(update={"size": begun.size})

    def _page(self, response: httpx.Response, chunks: Iterator[bytes]) -> MissingCapabilityError:
        kind = response.headers.get("content-type", "no type")
        return self._refusal(f"the server answered with a page ({kind}) in place of the file{_quote(chunks)}")

    def _receive(self, response: httpx.Response, expected: _Part) -> None:
        """Append the body to the part, which is emptied first unless the body continues it."""
        chunks = self._pace.body(response.iter_raw())
        first = next(chunks, b"")
        if not expected.size and _is_page(first):
            raise self._page(response, chain([first], chunks))
        self._check_size(expected)
        size = expected.size
        if not size:
            self._drop()
            write_json(note_of(self.part), expected.model_dump(exclude={"size"}))
        with self.part.open("ab") as file:
            for chunk in chain([first], chunks):
                size += file.write(chunk)
                if size > LARGEST:
                    self._drop()
                    raise self._refusal(f"it is larger than {LARGEST / MB:,.0f} MB, unlike any teacher")
                if expected.total:
                    self.progress(size // MB, -(-expected.total // MB))
        if size == 0:
            raise TransientError("the server sent nothing")
        if expected.total is None and not self.pinned and not _says_its_end(response):
            self._drop()  # a connection that broke off looks the same
            raise self._refusal("the server says neither its size nor where it ends, so it may not be whole")
        if expected.total is not None and size != expected.total:
            raise TransientError(f"the server sent {size:,} of {expected.total:,} bytes")

    def _check_size(self, expected: _Part) -> None:
        """Announce the size. Raises MissingCapabilityError if no teacher is so large, or the disk lacks the space."""
        if expected.total is None:
            return self.say("the server does not say how large it is")
        if expected.total > LARGEST:
            raise self._refusal(f"it is {expected.total / MB:,.0f} MB large, unlike any teacher")
        needed, free = expected.total - expected.size, free_space(self.part.parent)
        if free < needed:
            raise MissingCapabilityError(
                f"no space for {self.url} in {self.part.parent}: {needed / MB:.0f} MB are missing, "
                f"{free / MB:.0f} MB are free",
                "Free some space, or let DCP_DEPLOY_CACHE name a folder on another disk.",
            )
        kept = f"; {expected.size / MB:.1f} MB of them are on this disk already" if expected.size else ""
        self.say(f"the server has {expected.total / MB:.1f} MB{kept}")

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Raise httpx's errors as TransientError or MissingCapabilityError."""
        import httpx

        try:
            yield
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise self._refusal(f"the address is not usable: {error}") from error
        except httpx.TimeoutException as error:
            what = "no connection" if isinstance(error, httpx.ConnectTimeout) else "the server stalled"
            raise TransientError(f"{what} ({type(error).__name__})") from error
        except httpx.TransportError as error:
            cause: BaseException = error
            while following := cause.__cause__ or cause.__context__:
                cause = following
            if isinstance(cause, socket.gaierror):
                raise self._refusal(f"the host is unknown, or the network is down ({cause})") from error
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise self._refusal(f"the server's certificate cannot be trusted ({cause.verify_message})") from error
            raise TransientError(f"the connection failed ({error})") from error


def note_of(part: Path) -> Path:
    """Return the path of the file that says which file the part is the beginning of."""
    return part.with_name(f"{part.name}.json")


def _is_page(begin: bytes) -> bool:
    """Return whether a file begins like HTML, XML or JSON: with a bracket, and without control characters.

    The length at the beginning of a safetensors file may look like a bracket; its other seven bytes do not.
    """
    head = begin[:512].lstrip()
    return head[:1] in (b"<", b"{") and not any(byte < 32 and byte not in b"\t\n\r\f" for byte in head)


def _says_its_end(response: httpx.Response) -> bool:
    """Return whether the answer's form says where it ends: a length, or chunks with a last one."""
    return "content-length" in response.headers or "chunked" in response.headers.get("transfer-encoding", "").lower()


def _quote(chunks: Iterator[bytes]) -> str:
    """Return the title of a page, or the beginning of another answer, on one line."""
    import httpx

    text, until = b"", time.monotonic() + QUOTE_SECONDS
    with suppress(httpx.TransportError):  # a page that stalls or breaks off is still a page: do not ask again
        while len(text) <= 100 * QUOTED and time.monotonic() < until and (chunk := next(chunks, b"")):
            text += chunk
    words = text[: 100 * QUOTED].decode("utf-8", "replace")
    lower = words.lower()  # as long as the text, unless it has letters that no title needs
    begin, end = lower.find("<title"), lower.find("</title>")
    title = words[words.find(">", begin) + 1 : end] if 0 <= begin < end and len(lower) == len(words) else ""
    words = " ".join(_without_tags(title or words).split())
    return f": {''.join(filter(str.isprintable, words))[:QUOTED]}" if words else ""


def _without_tags(text: str) -> str:
    """Return the text with a space in place of each tag, in one pass. A tag without an end lasts to the end."""
    before, *pieces = text.split("<")
    return " ".join([before, *(piece.partition(">")[2] for piece in pieces)])


def _retry_after(response: httpx.Response) -> float | None:
    """Return the pause in seconds that the server asks for, as a number or a date; None if it does not."""
    value = response.headers.get("retry-after", "")
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
