"""Messages for findings, and hints for unknown names."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from authz_service.config import document, messages
from authz_service.config.key_hints import nearest
from authz_service.config.kinds import (
    ANY_KEY,
    INDEX,
    Finding,
    Flag,
    Invalid,
    Kind,
    Many,
    Members,
    OneOf,
    Where,
    Whole,
    findings_of,
    some,
    walk,
)
from authz_service.config.messages import problems
from authz_service.config.model import RuleSettings, Settings
from authz_service.config.revocations import RevocationsFile
from authz_service.config.sections import Section, SectionKey, SectionKind, key, optional
from authz_service.config.values import SCALAR, STRING
from authz_service.policy_tools.cases import Cases

EMPTY = document.parse(b"a: 1")
KINDS = [kind for root in (Settings, Cases, RevocationsFile) for _, kind in walk(SectionKind(root))]


def findings_in(kind: Kind[Any], value: object) -> list[Finding]:
    try:
        kind.read(value)
    except ValueError as error:
        return findings_of(error, kind, value)
    return []


def messages_of(kind: Any, value: object) -> list[str]:
    root = kind if isinstance(kind, type) else Settings
    reader = SectionKind(kind) if isinstance(kind, type) else kind
    return [problem.text for problem in problems(Invalid(findings_in(reader, value)), EMPTY, root)]


@pytest.mark.parametrize("value", [None, True, 0, -1, 10**9, 1.5, "", "x y", [], [None], {}, {"": None}], ids=repr)
def test_each_finding_of_each_kind_of_value_has_a_message(value: object) -> None:
    for kind in KINDS:
        messages = messages_of(kind, value)
        assert bool(messages) is not kind.accepts(value)
        for message in messages:
            assert message.isprintable()
            assert "None" not in message


class Sample(Section):
    level: SectionKey[Any] = optional(OneOf(Literal["low", "high", 3]), description="")
    on = key(OneOf(Literal[True]), default=True, description="")
    listed = key(Many(OneOf(Literal["a", "b"])), default=[], description="")
    named = key(Members(STRING, Whole(-1, 1)), default={}, description="")
    count = optional(Whole(2, 4), name="many", description="")
    flag = key(Flag(), default=False, description="")
    texts = optional(some(SCALAR), description="")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"level": "middle"}, "'middle' is not accepted: write 'low', 'high' or 3"),
        ({"on": False}, " (read as false) is not accepted: write true"),
        ({"listed": ["a", "c"]}, "'c' is not accepted: write 'a' or 'b'"),
        ({"named": {"x": 2}}, "must be at most 1"),
        ({"named": {"on": -2}}, "must be at least -1"),
        ({"many": 1}, "must be at least 2"),
        ({"many": 5}, "must be at most 4"),
        ({"many": "3"}, "must be a whole number, not the string '3': write it without quotes"),
        ({"many": "x"}, "must be a whole number, not the string 'x'"),
        ({"flag": "true"}, "must be true or false, not the string 'true': write it without quotes"),
        ({"flag": "on"}, "must be true or false, not the string 'on'"),
        ({"texts": [{}]}, "must be a string, a number, true or false, not a mapping"),
        ({"texts": [""]}, "is empty: write a value, or remove it"),
        ({"texts": []}, "is empty: give at least one"),
        ({"named": []}, "must be a mapping, lines of the form `key: value`, not a list"),
    ],
)
def test_the_remedy_comes_from_the_declaration(value: dict[str, object], problem: str) -> None:
    assert messages_of(Sample, value) == [problem]


def test_hints_are_bounded_and_every_unknown_key_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def counting(*_: object) -> str:
        nonlocal calls
        calls += 1
        return "a hint"

    monkeypatch.setattr(messages, "right_key", counting)
    found = messages_of(
        Settings, {"issuers": [ISSUER], "rules": [RULE]} | {f"key{number}": 1 for number in range(1000)}
    )
    assert len(found) == 1000
    assert calls < 500
    assert found[0] == "is not a key here: a hint"
    assert found[-1] == "is not a key here: remove it"


def test_an_unknown_key_is_compared_with_the_keys_of_its_section() -> None:
    rule = {"name": "r", "require": {"claims": {"equals": {"equal": 1}, "name": {"prsent": True}}}}
    assert messages_of(RuleSettings, rule) == [
        "is not a key here: did you mean equals?",
        "is not a key here: did you mean present?",
    ]


ISSUER = {"issuer": "https://a.example", "audiences": ["api"]}
RULE = {"name": "r"}


def messages_about(**sections: Any) -> list[str]:
    return messages_of(Settings, {"issuers": [ISSUER], "rules": [RULE]} | sections)


@pytest.mark.parametrize(
    ("sections", "hint"),
    [
        ({"jwks_uri": "https://a.example/k"}, "jwks_uri belongs in issuers[].keys"),
        ({"issuers": [ISSUER | {"jwks_uri": "https://a.example/k"}]}, "jwks_uri belongs in issuers[].keys"),
        (
            {"issuers": [ISSUER | {"client_secret_file": "s"}]},
            "client_secret_file belongs in issuers[].introspection or",
        ),
        ({"rules": [RULE | {"scopes": ["a"]}]}, "scopes belongs in rules[].require"),
        ({"rules": [RULE | {"require": {"jwks_uri": "x"}}]}, "jwks_uri belongs in issuers[].keys"),
        ({"rules": [RULE | {"match": {"contains": "x"}}]}, "contains belongs in rules[].require.claims.*"),
        ({"rules": [RULE | {"header": "x"}]}, "header belongs in rules[].credential"),
        ({"rules": [RULE | {"rules": []}]}, "rules belongs in the top level"),
        ({"rules": [RULE | {"require": {"claim": {"a": 1}}}]}, "did you mean claims?"),
        ({"rules": [RULE | {"paths": ["/"]}]}, "paths belongs in rules[].match"),
        ({"issuers": [ISSUER | {"audience": "a"}]}, "did you mean audiences?"),
        ({"rules": [RULE | {"path": "/"}]}, "did you mean paths? (paths belongs in rules[].match)"),
        ({"rules": [RULE | {"method": "GET"}]}, "did you mean methods? (methods belongs in rules[].match)"),
        ({"server": {"port": 9191}}, "did you mean grpc_address?"),
        ({"issuers": [ISSUER | {"jwks_url": "a"}]}, "did you mean jwks_uri? (jwks_uri belongs in issuers[].keys)"),
        ({"rules": [RULE | {"match": {"prefix": "x"}}]}, "did you mean paths?"),
        ({"rules": [RULE | {"match": {"roles": "x"}}]}, "write one of hosts, methods, paths, headers, mcp"),
        ({"level": "debug"}, "level belongs in logging"),
        ({"issuer": "https://a.example"}, "issuer belongs in issuers[]"),
    ],
)
def test_a_misplaced_key_is_reported_with_the_section_where_it_belongs(sections: dict[str, Any], hint: str) -> None:
    (message,) = messages_about(**sections)
    assert message.removeprefix("is not a key here: ").startswith(hint)


def rendered(where: Where) -> str:
    parts = ("[]" if part == INDEX else f".{part}" for part in where)
    return "".join(parts).removeprefix(".")


# Every key with the place of its section, as messages name it.
KEYS = {
    (name, rendered(where))
    for where, kind in walk(SectionKind(Settings))
    if isinstance(kind, SectionKind)
    for name in kind.section.declared
}


@pytest.mark.parametrize("key", sorted({key for key, place in KEYS if place} - Settings.declared.keys()))
def test_every_key_that_is_misplaced_at_the_top_level_is_reported_with_a_section_that_has_it(key: str) -> None:
    (message,) = messages_about(**{key: "x"})
    places = message.removeprefix(f"is not a key here: {key} belongs in ").split(" or ")
    assert places
    assert {(key, place) for place in places} <= KEYS


@pytest.mark.parametrize(
    ("require", "written"),
    [
        ({"scopes": "a b"}, '["a", "b"]'),
        ({"scopes": "a"}, '["a"]'),
        ({"scopes": {"all": "a  b"}}, '["a", "b"]'),
        ({"scopes": {"any": "a, b,"}}, '["a", "b"]'),
        ({"audiences": "https://a.example https://b.example"}, '["https://a.example https://b.example"]'),
        ({"audiences": "https://a.example, https://b.example"}, '["https://a.example", "https://b.example"]'),
        ({"clients": "my app"}, '["my app"]'),
        ({"claims": {"c": {"in": "x"}}}, '["x"]'),
        ({"acr_values": "gold silver"}, '["gold", "silver"]'),
        ({"scopes": " "}, '[" "]'),
        ({"clients": "x" * 121}, "a list, in brackets, [ ]"),
    ],
)
def test_a_string_in_place_of_a_list_is_shown_as_the_list(require: dict[str, Any], written: str) -> None:
    (message,) = messages_about(rules=[RULE | {"require": require}])
    assert message.startswith("must be a list, not the string ")
    assert message.endswith(f": write {written}")


LISTS = [
    tuple("name" if part == ANY_KEY else part for part in where)
    for where, kind in walk(SectionKind(Settings))
    if isinstance(kind, Many)
]


@pytest.mark.parametrize("where", [where for where in LISTS if len(where) > 1], ids=str)
def test_every_key_for_a_list_asks_for_one_where_a_string_is_written(where: tuple[Any, ...]) -> None:
    value: Any = "x"
    for part in reversed(where):
        value = [value] if part == 0 else {part: value}
    messages = messages_of(Settings, value)
    assert any(" a list, not the string 'x': write [\"x\"]" in message for message in messages), messages


@pytest.mark.parametrize("rules", [{"name": "r"}, {}])
def test_a_section_in_place_of_a_list_of_sections_is_reported_with_the_missing_dash(rules: dict[str, str]) -> None:
    assert messages_about(rules=rules) == [
        "must be a list, not a mapping: write a dash before its first key, and indent the others alike"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "server: {grpc_address: 9191}",
            "'9191' is not an address: write host:port, such as 127.0.0.1:9191, [::1]:9191, or unix:/path/to.sock",
        ),
        (
            "server: {admin_address: 9192}",
            "'9192' is not an address: write host:port, such as 127.0.0.1:9192, or [::1]:9192",
        ),
        ("rules: [{name: 7}]", 'must be a string, not the number 7: write it in quotes, "7"'),
        ("rules: [{name: yes}]", 'must be a string, not yes (read as true): write it in quotes, "yes"'),
        ("rules: [{name: a, match: {methods: 7}}]", 'must be a list, not the number 7: write ["7"]'),
        ("rules: [{name: a, match: {paths: 7}}]", "must be a list, not the number 7: write [7]"),
        ("rules: [{name: a, require: {scopes: 7}}]", 'must be a list, not the number 7: write ["7"]'),
        ("rules: [{name: a, require: {claims: {a: ''}}}]", "is empty: write a value, or remove it"),
    ],
)
def test_quotes_are_advised_only_where_they_make_the_value_valid(text: str, message: str) -> None:
    parsed = document.parse(text.encode())
    with pytest.raises(Invalid) as refusal:
        Settings.read(parsed.value)
    assert message in [problem.text for problem in problems(refusal.value, parsed)]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("mian", "did you mean main?"), ("MAIN", "write one of main, other"), ("x", "write one of main, other")],
)
def test_a_hint_has_the_closest_name_or_all_names(name: str, hint: str) -> None:
    assert nearest(name, ["main", "other"]) == hint


@pytest.mark.parametrize(
    ("key", "meant"),
    [("sub", "subject"), ("user", "subject"), ("sid", "session"), ("iss", "issuer"), ("client_id", "client")],
)
def test_a_revocation_with_the_name_of_a_claim_is_told_the_name_of_the_part(key: str, meant: str) -> None:
    assert messages_of(RevocationsFile, {"revocations": [{key: "x"}]}) == [f"is not a key here: did you mean {meant}?"]


def test_an_empty_list_in_a_file_of_its_own_is_written_in_brackets() -> None:
    assert messages_of(RevocationsFile, {"revocations": None}) == ["is empty: write [] for none"]
