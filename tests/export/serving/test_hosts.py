from __future__ import annotations

import pytest

from dcp_deploy.export.serving.hosts import hosts_of, is_allowed

HOSTS = hosts_of("0.0.0.0", "Machine", ["images.example", "Other.Example."])


@pytest.mark.parametrize(
    "header",
    [
        "localhost", "LOCALHOST:8000", "127.0.0.1", "10.1.2.3:8000", "[::1]:8000", "[::1]", "machine:8000",
        "images.example", "images.example.:80", "other.example", "localhost:",
    ],
)  # fmt: skip
def test_addresses_and_named_hosts_are_allowed(header: str) -> None:
    assert HOSTS is not None and is_allowed(header, HOSTS)


@pytest.mark.parametrize(
    "header",
    [
        "evil.example", "localhost.evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", ":8000", "[::1",
        "::1", "localhost@evil.example", "localhost/x", "localhost:8000:1", "images.example,evil.example", "127.1",
        "[localhost]", "x.images.example",
    ],
)  # fmt: skip
def test_other_names_are_refused(header: str) -> None:
    assert HOSTS is not None and not is_allowed(header, HOSTS)


def test_a_star_allows_any_name() -> None:
    assert hosts_of("127.0.0.1", "machine", ["a.example", "*"]) is None
