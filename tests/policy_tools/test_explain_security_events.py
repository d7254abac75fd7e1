"""``explain`` decides by the security events that the sidecar saved, and says so where it cannot know them."""

from __future__ import annotations

import fcntl
import os
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from authz_service.cli import main
from authz_service.core.reasons import DENIALS, Reason
from authz_service.tokens.revocation.event_file import EventFile
from authz_service.tokens.revocation.event_store import EventStore
from authz_service.tokens.revocation.revocations import Revocation, TokenParts
from support.documents import page
from support.trust import ISSUER, OTHER, RS, claims, jwks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PAGE = page("how-to/security-events")
NOW = int(time.time())
EVENTS: dict[str, Any] = {
    "poll_endpoint": "https://idp.example/poll",
    "audience": "https://receiver.example",
    "bearer_token_file": "bearer-token",
    "keep": "1h",
    "snapshot_file": "events",
}


@pytest.fixture
def explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Explains a request with a token of ``subject``, and returns the mark and detail of the step about revocations."""

    def step(subject: str = "u1", **changes: Any) -> str:
        (tmp_path / "jwks.json").write_bytes(jwks(RS.jwk()))
        (tmp_path / "bearer-token").write_text("secret")
        (tmp_path / "token").write_text(RS.sign(claims(sub=subject, iat=NOW - 120, exp=int(time.time()) + 600)))
        events = {name: value for name, value in (EVENTS | changes).items() if value is not None}
        issuer = {"issuer": ISSUER, "name": "main", "audiences": ["api"], "keys": {"jwks_file": "jwks.json"}}
        config = {"issuers": [issuer | {"security_events": events}], "rules": [{"name": "any"}]}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        command = ["explain", "--config", str(tmp_path / "config.yaml"), "--url", "https://api.example/x"]
        main([*command, "--token-file", str(tmp_path / "token")])
        (line,) = [line for line in capsys.readouterr().out.splitlines() if " revocations " in line]
        mark, _, detail = line.partition(" revocations ")
        return f"{mark[-1]} {detail.strip()}"

    return step


def save(folder: Path, *revocations: Revocation, issuer: str = ISSUER) -> Path:
    """What a sidecar writes."""
    store = EventStore(3600.0, 100)
    for each in revocations:
        store.add(each, float(NOW))
    file = EventFile(folder / "events", issuer)
    file.save(revocations, store, NOW)
    file.unlock()
    os.utime(folder / "events", (1_700_000_000, 1_700_000_000))
    return folder / "events"


def of_subject(subject: str, at: float) -> Revocation:
    return Revocation(TokenParts(subject=subject), at, "session-revoked")


def test_the_event_that_revokes_the_token_is_named_with_its_type_issuer_and_time(
    tmp_path: Path, explain: Callable[..., str]
) -> None:
    save(tmp_path, of_subject("u1", NOW - 60))
    at = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(NOW - 60))
    assert explain() == f"✗ revoked: revoked by an event of main: session-revoked at {at}"
    assert re.search(r"revocations +revoked: revoked by an event of keycloak: session-revoked at \d", PAGE)
    assert f'error_description="{DENIALS[Reason.REVOKED].detail}"' in PAGE


@pytest.mark.parametrize(("subject", "ago"), [("u2", 60), ("u1", 3700), ("u1", 120)])
def test_a_token_that_no_saved_event_revokes_is_explained_with_their_age(
    tmp_path: Path, explain: Callable[..., str], subject: str, ago: int
) -> None:
    save(tmp_path, of_subject(subject, NOW - ago))
    assert explain() == "✓ not revoked, by the security events until 2023-11-14T22:13:20+00:00"


def test_where_the_events_are_not_available_the_step_says_so(tmp_path: Path, explain: Callable[..., str]) -> None:
    unavailable = "· not revoked, except perhaps by security events, which are not available here: "
    assert explain(snapshot_file=None) == unavailable + "without a snapshot_file they are not saved"
    assert explain() == unavailable + "the snapshot_file does not exist"
    assert not (tmp_path / "events.lock").exists()
    file = save(tmp_path, of_subject("u1", NOW - 60))
    file.chmod(0o666)
    assert explain() == unavailable + "the snapshot_file is writable by other users (mode 0666): set mode 0600"
    file.unlink()
    save(tmp_path, of_subject("u1", NOW - 60), issuer=OTHER)
    assert explain().startswith(unavailable + "the snapshot_file has the events of another issuer")
    file.unlink()
    file.symlink_to(file)
    assert explain() == unavailable + "the snapshot_file cannot be read: Too many levels of symbolic links"


def test_the_file_is_read_beside_its_writer_and_left_as_it_is(tmp_path: Path, explain: Callable[..., str]) -> None:
    file = save(tmp_path, of_subject("u1", NOW - 60))
    with file.open("ab") as writer:
        writer.write(b'damaged\n{"subject": "u2", "issued_bef')  # the writer is at work
    before = file.read_bytes(), file.stat().st_mtime_ns
    with (tmp_path / "events.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert explain().startswith("✗ revoked: ")
        assert explain("u2").endswith("; damaged lines: 1")
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    (tmp_path / "events.lock").unlink()
    explain()
    assert not (tmp_path / "events.lock").exists()


def test_policy_cases_ignore_security_events(
    tmp_path: Path, explain: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, of_subject("u1", NOW + 60))
    assert explain().startswith("✗ revoked: ")
    case = {
        "name": "allowed",
        "request": {"url": "https://api.example/x"},
        "token": {"issuer": "main", "sub": "u1"},
        "expect": {"decision": "allow"},
    }
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump({"cases": [case]}))
    assert main(["test", "--config", str(tmp_path / "config.yaml"), str(tmp_path / "cases.yaml")]) == 0
    assert capsys.readouterr().out.endswith("1 passed, 0 failed\n")
