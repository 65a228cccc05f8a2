"""One file over HTTP into ``<name>.part``: resumable, patient with servers that falter, and never fooled by a web page.

What a server says of a file (its size, its ETag or date) is kept beside the part, so that an interrupted transfer goes
on where it was (RFC 9110, sections 13.1.5 and 14) and a file that changed meanwhile is begun anew. Bytes of two
versions are never joined, unless the caller knows the sha256 and would notice.
"""

from __future__ import annotations

import email.utils
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MissingCapabilityError
from ..files import free_space, read_json, write_json
from ..progress import Progress
from ..version import __version__

if TYPE_CHECKING:
    import httpx

MB = 1_000_000
LARGEST = 8_000 * MB  # many times any published teacher; an endless answer must not fill the disk
REDIRECTS = 10
QUOTED = 160  # characters of a server's answer that a message shows
PAGES = ("text/html", "text/xml", "application/xhtml+xml", "application/xml", "application/json")
PASSING = (408, 425, 429)  # with 5xx: the statuses that may go away by waiting


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server, in seconds, and how many times in a row (``attempts``) without one new byte."""

    connect: float = 15.0
    stall: float = 60.0
    """Without a byte, once connected."""
    attempts: int = 5
    pause: float = 1.0
    """Before the second attempt; doubles from one to the next."""
    longest_pause: float = 120.0
    """A server that asks for more than this is not waited for."""


@dataclass(frozen=True)
class _Part:
    """The beginning of a file: how many bytes are here, and what the server said of the file that they are from."""

    size: int = 0
    total: int | None = None
    etag: str = ""  # strong ones only: weak ones do not promise the same bytes
    modified: str = ""

    @property
    def complete(self) -> bool:
        return self.size > 0 and self.size == self.total

    @property
    def version(self) -> str:
        """What a server can compare its file with; empty when it gave nothing of the kind."""
        return self.etag or self.modified

    @property
    def plausible(self) -> bool:
        """Whether the values are what they should be: notes lie on disks, where anything may happen to them."""
        total = self.total is None or (type(self.total) is int and self.total >= self.size)
        return total and all(isinstance(text, str) and _fits_a_header(text) for text in (self.etag, self.modified))

    def same_file(self, other: _Part) -> bool:
        """Whether nothing that both know of their file differs."""
        pairs = ((self.total, other.total), (self.etag, other.etag), (self.modified, other.modified))
        return all(mine == theirs for mine, theirs in pairs if mine and theirs)


class _AgainError(Exception):
    """An attempt failed in a way that may pass; ``wait``: how many seconds the server asked for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def transfer(
    url: str,
    part: Path,
    *,
    say: Callable[[str], None],
    progress: Progress,
    patience: Patience,
    pinned: bool,
    remedy: str,
) -> None:
    """Fill ``part`` with the file at ``url``, over as many connections as it takes; what is there already is kept.

    ``pinned``: the caller checks a known sha256 afterwards. ``progress`` counts units of 1e6 bytes. Raises
    MissingCapabilityError, with ``remedy``, when the address cannot be reached, answers something that is not the file,
    or stays unusable; OSError when the disk is full. In each of these cases, as when it is interrupted, ``part`` stays.
    """
    one = _Transfer(url, part, say, progress, pinned, remedy)
    failures, reached = 0, one.begun().size
    with one.client(patience) as client:
        while True:
            try:
                one.attempt(client)
                return
            except _AgainError as error:
                again = error
            size = one.begun().size
            failures, reached = (1 if size > reached else failures + 1), max(size, reached)
            pause = patience.pause * 2 ** (failures - 1) if again.wait is None else again.wait
            if failures >= patience.attempts or pause > patience.longest_pause:
                raise one.given_up(again, failures, size) from again
            say(f"{again}; trying again in {pause:.0f} s")
            time.sleep(pause)


@dataclass(frozen=True)
class _Transfer:
    """What every attempt at one file shares."""

    url: str
    part: Path
    say: Callable[[str], None]
    progress: Progress
    pinned: bool
    remedy: str

    @property
    def note(self) -> Path:
        """Where the part's :class:`_Part` is kept."""
        return note_of(self.part)

    def refusal(self, what: str, more: str = "") -> MissingCapabilityError:
        return MissingCapabilityError(f"{self.url} could not be fetched: {what}", f"{self.remedy}{more}")

    def given_up(self, last: _AgainError, failures: int, size: int) -> MissingCapabilityError:
        often = f", {failures} times in a row" if failures > 1 else ""
        wish = "" if last.wait is None else f"; it asks to wait {last.wait:.0f} s"
        kept = f" {size / MB:.1f} MB are kept: the same command goes on from there." if size else ""
        return self.refusal(f"{last}{often}{wish}", kept)

    def begun(self) -> _Part:
        """What an earlier attempt left, as far as it can be used: it must be told what file that belongs to."""
        try:
            kept = _Part(**{**read_json(self.note), "size": self.part.stat().st_size})
        except (OSError, ValueError, TypeError):
            return _Part()
        usable = kept.plausible and (kept.complete or kept.version or self.pinned)
        return kept if usable else _Part()

    def drop(self) -> None:
        """Forget what was begun."""
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    @contextmanager
    def client(self, patience: Patience) -> Iterator[httpx.Client]:
        import httpx

        def only_as_safe_as_the_first(request: httpx.Request) -> None:
            secure = self.url.startswith("https:")
            if request.url.scheme not in (("https",) if secure else ("http", "https")):
                where = f"{request.url.scheme}://{request.url.host}"
                raise self.refusal(f"it leads to {where}, which is not safe to follow")

        try:
            client = httpx.Client(
                follow_redirects=True,
                max_redirects=REDIRECTS,
                timeout=httpx.Timeout(patience.stall, connect=patience.connect),
                # identity: a range of a compressed answer is no range of the file
                headers={"User-Agent": f"dcp-deploy/{__version__}", "Accept-Encoding": "identity"},
                event_hooks={"request": [only_as_safe_as_the_first]},
            )
        except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:  # a proxy or certificates it cannot use
            raise self.refusal(f"the proxy or certificate settings of this machine do not work: {error}") from error
        with client:
            yield client

    def attempt(self, client: httpx.Client) -> None:
        """One connection. Raises _AgainError for what may pass, MissingCapabilityError for what does not."""
        begun = self.begun()
        if begun.complete:
            return
        if not begun.size and self.part.exists():
            self.say("starting over: nothing tells whether what is here already belongs to the same file")
        headers = {"Range": f"bytes={begun.size}-"} if begun.size else {}
        if begun.size and begun.version:
            headers["If-Range"] = begun.version
        with self._troubles(), client.stream("GET", self.url, headers=headers) as response:
            if response.status_code == 416 and headers:
                self._past_the_end(response, begun)
                return
            expected = self._checked(response, begun)
            self._receive(response, expected)

    # ---- what the server answered ----

    def _past_the_end(self, response: httpx.Response, begun: _Part) -> None:
        """Nothing lies behind what we have: it is the whole file, or of another one."""
        found = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("content-range", ""))
        if found and int(found[1]) == begun.size and begun.total in (None, begun.size):
            return
        self.drop()
        raise _AgainError("the server's file ends before the part that is here; starting over")

    def _checked(self, response: httpx.Response, begun: _Part) -> _Part:
        """The part as it is before this answer's body: begun, or empty. Raises for whatever is not the file."""
        status = response.status_code
        if status in PASSING or status >= 500:
            raise _AgainError(f"the server answered {_line(response)}", _retry_after(response))
        if status not in (200, 206):
            raise self.refusal(f"the server answered {_line(response)}{_quote(response)}")
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise self.refusal(f"the server sends it encoded ({encoding}), though not asked to")
        if response.headers.get("content-type", "").split(";")[0].strip().lower() in PAGES:
            raise self._page(response)
        if status == 200:
            if begun.size:
                self.say(f"starting over: the server sends the whole file, not the rest after {begun.size / MB:.1f} MB")
            return _described(response)
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("content-range", ""))
        total = int(found[2]) if found and found[2] != "*" else None
        now = _described(response, total)
        if found is None or int(found[1]) != begun.size or not begun.same_file(now):
            self.drop()
            raise _AgainError("the file changed on the server; starting over")
        return _Part(begun.size, begun.total or total, begun.etag or now.etag, begun.modified or now.modified)

    def _page(self, response: httpx.Response, begin: bytes = b"") -> MissingCapabilityError:
        kind = response.headers.get("content-type", "no type")
        return self.refusal(f"the server answered with a page ({kind}) in place of the file{_quote(response, begin)}")

    # ---- the body ----

    def _receive(self, response: httpx.Response, expected: _Part) -> None:
        """Append the body to the part, which is emptied first when the body is not its continuation."""
        chunks = response.iter_raw()
        chunk = next(chunks, b"")
        if not expected.size and _is_page(chunk):
            raise self._page(response, chunk)
        self._room_for(expected)
        if not expected.size:
            self.drop()
            write_json(self.note, {name: value for name, value in asdict(expected).items() if name != "size"})
        self._announce(expected)
        size = expected.size
        with self.part.open("ab") as file:
            while chunk:
                file.write(chunk)
                size += len(chunk)
                if size > LARGEST:
                    self.drop()
                    raise self.refusal(f"it is larger than {LARGEST / MB:,.0f} MB, which no teacher is")
                if expected.total:
                    self.progress(size // MB, -(-expected.total // MB))
                chunk = next(chunks, b"")
        if size == 0:
            raise _AgainError("the server sent nothing")
        if expected.total is not None and size != expected.total:
            raise _AgainError(f"the server sent {size:,} of {expected.total:,} bytes")

    def _room_for(self, expected: _Part) -> None:
        if expected.total is None:
            return
        if expected.total > LARGEST:
            raise self.refusal(f"it is {expected.total / MB:,.0f} MB large, which no teacher is")
        needed, free = expected.total - expected.size, free_space(self.part.parent)
        if free < needed:
            raise MissingCapabilityError(
                f"no space for {self.url} in {self.part.parent}: {needed / MB:.0f} MB are to come, "
                f"{free / MB:.0f} MB are free",
                "Free some space, or let DCP_DEPLOY_CACHE name a folder on another disk.",
            )

    def _announce(self, expected: _Part) -> None:
        if expected.total is None:
            self.say("the server does not say how large it is")
        else:
            here = f"; {expected.size / MB:.1f} MB of them are here already" if expected.size else ""
            self.say(f"the server has {expected.total / MB:.1f} MB{here}")

    # ---- what goes wrong on the way ----

    @contextmanager
    def _troubles(self) -> Iterator[None]:
        """httpx's errors as ours: what may pass, and what does not."""
        import httpx

        try:
            yield
        except httpx.TooManyRedirects as error:
            raise self.refusal(f"it was redirected more than {REDIRECTS} times") from error
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise self.refusal(f"no address to fetch from: {error}") from error
        except httpx.TimeoutException as error:
            what = "no connection" if isinstance(error, httpx.ConnectTimeout) else "the server stalled"
            raise _AgainError(f"{what} ({type(error).__name__})") from error
        except httpx.TransportError as error:
            cause = _root(error)
            if isinstance(cause, socket.gaierror):
                raise self.refusal(f"no such host can be found from here, or there is no network ({cause})") from error
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise self.refusal(f"the server's certificate cannot be trusted ({cause.verify_message})") from error
            raise _AgainError(f"the connection failed ({error})") from error


def note_of(part: Path) -> Path:
    """The file beside a part that says which file it is the beginning of."""
    return part.with_name(f"{part.name}.json")


def _described(response: httpx.Response, total: int | None = None) -> _Part:
    """What the answer says of the whole file."""
    length = response.headers.get("content-length")
    if response.status_code == 200 and length is not None:
        total = int(length)
    etag, modified = (response.headers.get(name, "") for name in ("etag", "last-modified"))
    strong = _fits_a_header(etag) and not etag.startswith("W/")
    return _Part(0, total, etag if strong else "", modified if _fits_a_header(modified) else "")


def _fits_a_header(text: str) -> bool:
    """Whether a request may carry it: some servers send what a client must not send back."""
    return text.isascii() and text.isprintable()


def _is_page(begin: bytes) -> bool:
    """Whether a file begins as HTML, XML or JSON do, and as no teacher does: a bracket, and not one control character.

    (The length that a safetensors file begins with may look like a bracket; seven more bytes of it do not.)
    """
    head = begin[:512].lstrip()
    return head[:1] in (b"<", b"{") and not any(byte < 32 and byte not in b"\t\n\r\f" for byte in head)


def _line(response: httpx.Response) -> str:
    return f"{response.status_code} {response.reason_phrase}".strip()


def _quote(response: httpx.Response, begin: bytes = b"") -> str:
    """The title of a page, or the beginning of what else was sent, on one line."""
    text = begin
    if not begin:
        for chunk in response.iter_raw():
            text += chunk
            if len(text) > 100 * QUOTED:
                break
    words = text.decode("utf-8", "replace")
    title = re.search(r"<title[^>]*>(.*?)</title>", words, re.IGNORECASE | re.DOTALL)
    words = " ".join(re.sub(r"<[^>]*>", " ", title[1] if title else words).split())
    return f": {''.join(filter(str.isprintable, words))[:QUOTED]}" if words else ""


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that the server asks to wait, from a number or a date; None when it does not say."""
    value = response.headers.get("retry-after", "")
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _root(error: BaseException) -> BaseException:
    """The first cause of an error."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return error
