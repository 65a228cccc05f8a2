"""Files of the Hugging Face Hub: ``hf://OWNER/NAME[@REVISION]/FILE``, through ``huggingface_hub``.

Its own environment variables apply: HF_TOKEN for private and gated repositories, HF_ENDPOINT for another server,
HF_HOME for the folder of fetched files, HF_HUB_OFFLINE to use only that folder.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingCapabilityError, UsageError
from ..files import sha256_file

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FORM = "hf://OWNER/NAME/FILE, or hf://OWNER/NAME@REVISION/FILE"
_NAME = r"[\w.-]+"
_ADDRESS = re.compile(rf"hf:/{{1,2}}({_NAME}/{_NAME})(?:@([^/@]+))?(?:/(.+))?")


@dataclass(frozen=True)
class HubAddress:
    """A repository of models on the Hub, or a file in it. ``file`` is "" for the repository itself."""

    repository: str
    revision: str | None = None
    """Branch, tag or commit; None for the main branch."""
    file: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repository}{revision}" + (f"/{self.file}" if self.file else "")


def is_hub(place: object) -> bool:
    """Return whether a path or text names a place on the Hub. A ``Path`` has lost one of the two slashes."""
    return str(place).startswith("hf:/")


def parse_address(place: object) -> HubAddress:
    """Parse the address of a file. Raises UsageError for any other text."""
    address = _parse(place)
    if address is None or not address.file or ".." in address.file.split("/"):
        raise UsageError(f"{_shown(place)} is not the address of a file on the Hub", f"Write {FORM}.")
    return address


def parse_repository(place: object) -> HubAddress:
    """Parse the address of a repository to write to. Raises UsageError for any other text."""
    address = _parse(place)
    if address is None or address.file:
        raise UsageError(
            f"{_shown(place)} is not the address of a repository on the Hub", "Write hf://OWNER/NAME, without a file."
        )
    return address


def fetch_from_hub(address: HubAddress, *, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]]:
    """Return the local path of a file on the Hub, and its origin: url, commit, bytes, sha256 and licence.

    The file is fetched unless this machine has the current one; without a network, one fetched earlier is used.
    Raises MissingCapabilityError if the file cannot be had; the remedy tells what to do.
    """
    require_hub(str(address))
    from huggingface_hub import hf_hub_download

    say(f"fetching {address} from {endpoint()}, unless this machine has it already")
    with hub_errors(str(address), f"To do without the Hub: get {address.file} by hand, then give the file's path."):
        found = hf_hub_download(
            address.repository, address.file, revision=address.revision, endpoint=endpoint(), library_name="dcp-deploy"
        )
    origin = _origin(address, Path(str(found)))
    say(f"using {found}; licence: {origin.get('licence', 'not stated by the repository')}")
    return Path(str(found)), origin


def cached_from_hub(address: HubAddress) -> tuple[Path, dict[str, Any]] | None:
    """Return the path and origin of a file fetched earlier, without any request; None if it was not."""
    require_hub(str(address))
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(address.repository, address.file, revision=address.revision)
    return (Path(found), {"origin": "hub", "path": found, "url": str(address)}) if isinstance(found, str) else None


def hub_api() -> HfApi:
    """Return the Hub's client for the current endpoint; the token comes from HF_TOKEN or an earlier login."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), library_name="dcp-deploy")


def endpoint() -> str:
    """Return the server's address: HF_ENDPOINT, else the Hub's own."""
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or constants.ENDPOINT


def require_hub(place: str) -> None:
    """Raise MissingCapabilityError unless ``huggingface_hub`` is installed."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingCapabilityError(
            f"{place} needs the package huggingface_hub, which is not installed",
            "Install it: pip install 'dcp-deploy[hub]'.",
        )


@contextmanager
def hub_errors(place: str, otherwise: str) -> Iterator[None]:
    """Raise what the Hub's client raises as MissingCapabilityError. ``otherwise`` ends each remedy.

    Errors of this machine's disk stay as they are.
    """
    from huggingface_hub import errors

    login = "Let HF_TOKEN hold a token that may read it, or check the name."
    try:
        yield
    except errors.GatedRepoError as error:
        accept = f"Accept its terms on {_page(place)}, then let HF_TOKEN hold your token. {otherwise}"
        raise MissingCapabilityError(f"{place} is gated: its owner grants access", accept) from error
    except errors.RepositoryNotFoundError as error:
        words = f"{place}: the repository does not exist, or it is private ({_status(error)})"
        raise MissingCapabilityError(words, f"{login} {otherwise}") from error
    except errors.RevisionNotFoundError as error:
        words = f"{place}: the repository has no such revision"
        raise MissingCapabilityError(words, f"Look at {_page(place)} for its branches and tags. {otherwise}") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        words = f"{place} is not on this machine, and {endpoint()} cannot be reached: {_reason(error)}"
        remedy = f"Check the network and HF_HUB_OFFLINE, then run the same command again. {otherwise}"
        raise MissingCapabilityError(words, remedy) from error
    except errors.EntryNotFoundError as error:
        words = f"{place}: the repository has no such file"
        raise MissingCapabilityError(words, f"Look at {_page(place)} for its files. {otherwise}") from error
    except errors.HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            words = f"{place}: {endpoint()} refused ({_status(error)})"
            raise MissingCapabilityError(
                words, f"Let HF_TOKEN hold a token with the right to do this. {otherwise}"
            ) from error
        words = f"{place}: {endpoint()} failed ({_status(error)})"
        raise MissingCapabilityError(words, f"Run the same command again later. {otherwise}") from error
    except errors.HFValidationError as error:
        raise UsageError(f"{place} is not a name that the Hub allows: {error}", f"Write {FORM}.") from error
    except _http_error() as error:
        words = f"{place}: {endpoint()} cannot be reached: {_reason(error)}"
        raise MissingCapabilityError(words, f"Check the network and HF_ENDPOINT. {otherwise}") from error


def _parse(place: object) -> HubAddress | None:
    found = _ADDRESS.fullmatch(str(place))
    return None if found is None else HubAddress(found[1], found[2], found[3] or "")


def _shown(place: object) -> str:
    return re.sub(r"^hf:/+", "hf://", str(place))


def _origin(address: HubAddress, path: Path) -> dict[str, Any]:
    """Describe a fetched file. Its folder is named after the commit that it belongs to."""
    depth = len(Path(address.file).parts)
    facts = {
        "origin": "hub",
        "path": str(path),
        "url": str(address),
        "commit": path.parts[-depth - 1],
        "bytes": path.stat().st_size,
        "sha256": sha256_file(path),
    }
    licence = _licence(address)
    return {**facts, "licence": licence} if licence else facts


def _licence(address: HubAddress) -> str | None:
    """Return the licence that the repository's card states; None without one, or without a network."""
    try:
        card = hub_api().model_info(address.repository, revision=address.revision).card_data
    except (_http_error(), OSError):
        return None
    stated: dict[str, Any] = {} if card is None else vars(card)
    licence = stated.get("license_name") if stated.get("license") == "other" else stated.get("license")
    return licence if isinstance(licence, str) else None


def _http_error() -> type[Exception]:
    """Return the base of the errors of connections. Its package differs from one release of the client to the next."""
    from huggingface_hub.errors import HfHubHTTPError

    base: Any = HfHubHTTPError.__bases__[0]
    found: type[Exception] = base
    return found


def _status(error: Any) -> str:
    """Return the server's answer in words: its status and, if there is one, its own message."""
    response = getattr(error, "response", None)
    said = getattr(error, "server_message", None)
    status = f"status {response.status_code}" if response is not None else "no answer"
    return f"{status}: {' '.join(str(said).split())[:160]}" if said else status


def _reason(error: BaseException) -> str:
    """Return the innermost cause on one line: the client's own words advise on its settings."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return " ".join(str(error).split())[:160] or type(error).__name__


def _page(place: str) -> str:
    address = _parse(place)
    return endpoint() if address is None else f"{endpoint()}/{address.repository}"
