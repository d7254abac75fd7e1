"""What holds between keys, and that a problem is said once, where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from config.conftest import Loads, Refuses

MAIN = "{issuer: https://a.example.com/, name: main, audiences: [api]}"
ANY = "{name: any}"


SECRET = "client_id: me, client_secret_file: secret"
PRIVATE = "client_id: me, auth_method: private_key_jwt"


def asked(introspection: str, more: str = "", issuer: str = "https://a/") -> str:
    """One issuer with introspection."""
    return text(f"{{issuer: '{issuer}', audiences: [api], introspection: {{{introspection}}}, {more}}}")


def text(issuers: str = MAIN, rules: str = ANY, more: str = "") -> str:
    return f"issuers: [{issuers}]\nrules: [{rules}]\n{more}"


GOOD = {
    "two issuers on one host with names": text(
        f"{MAIN}, {{issuer: https://a.example.com/x, name: x, audiences: [api]}}"
    ),
    "a name and another issuer's host that differ": text(
        f"{MAIN}, {{issuer: https://main/, name: x, audiences: [api]}}"
    ),
    "a rule that names an issuer by its host": text(
        "{issuer: https://a.example.com/, audiences: [api]}", "{name: r, require: {issuers: [a.example.com]}}"
    ),
    "an issuer without audiences where each rule has its own": text(
        "{issuer: https://a.example.com/}", "{name: r, require: {audiences: [api]}}, {name: p, access: public}"
    ),
    "an issuer without audiences that no rule without accepts": text(
        f"{MAIN}, {{issuer: https://b/}}", "{name: r, require: {issuers: [main]}}"
    ),
    "any scopes of which only some are refused": text(
        rules="{name: r, require: {scopes: {all: [a], any: [b, c], none: [c]}}}"
    ),
    "the same address with port 0": text(more="server: {grpc_address: '[::1]:0', admin_address: '[::1]:0'}"),
    "the same port on two addresses": text(more="server: {grpc_address: 127.0.0.1:1, admin_address: 127.0.0.2:1}"),
    "no upstream headers": text(more="upstream: {headers: {}}"),
    "one claim in two headers": text(more="upstream: {headers: {a: sub, b: sub}}"),
    "plain http on this machine": text("{issuer: 'http://[::1]:8080/x', name: a, audiences: [api]}"),
    "plain http that is allowed": text("{issuer: http://idp/, name: a, audiences: [api], keys: {allow_http: true}}"),
    "a plain http issuer whose keys come by https": text(
        "{issuer: http://idp/, audiences: [api], keys: {jwks_uri: https://idp/jwks}}"
    ),
    "a plain http issuer whose keys are a file": text(
        "{issuer: http://idp/, audiences: [api], keys: {jwks_file: jwks.json}}"
    ),
    "discovery that is off where another source is given": text(
        "{issuer: https://idp/, audiences: [api], keys: {discovery: false, jwks_uri: https://idp/jwks}}"
    ),
    "a rule by policy, and one that matches": text(rules="{name: a, policy: p}, {name: b, policy: q}, {name: c}"),
    "captures that every path has": text(
        rules="{name: a, match: {paths: ['/t/{t}/**', '/x/y/{t}']}, "
        "require: {scopes: {any: ['r:{t}']}, claims: {c: {equals_path: t}}}}"
    ),
    "captures at two places of paths that never meet": text(
        rules="{name: a, match: {paths: ['/a/{t}', '/{t}/b/c']}, require: {scopes: ['{t}']}}"
    ),
    "a name that is captured at two places and that nobody asks for": text(
        rules="{name: a, match: {paths: ['/a/{t}', '/{t}/b']}}"
    ),
    "intervals that are equal": text(
        "{issuer: https://a/, audiences: [x], "
        "keys: {min_refresh_interval: 1m, refresh_interval: 60s, max_refresh_interval: 1m}}"
    ),
}

GOOD |= {
    "introspection by discovery": asked(SECRET),
    "introspection by discovery beside a key set": asked(SECRET, "keys: {jwks_file: jwks.json}"),
    "introspection without keys": asked(f"{SECRET}, endpoint: https://a/i", "keys: {discovery: false}"),
    "introspection beside a key set": asked(f"{SECRET}, endpoint: https://a/i", "keys: {jwks_file: jwks.json}"),
    "introspection with a private key": asked(f"{PRIVATE}, private_key_file: secret"),
    "introspection with the secret in the form": asked(f"{SECRET}, auth_method: client_secret_post"),
    "introspection of JWTs": asked(f"{SECRET}, mode: always"),
    "introspection on this machine": asked(f"{SECRET}, endpoint: 'http://127.0.0.1:1/i'"),
    "introspection by plain http that is allowed": asked(
        f"{SECRET}, endpoint: 'http://idp/i'", "keys: {allow_http: true}"
    ),
    "an http issuer whose tokens are known by introspection alone": asked(
        f"{SECRET}, endpoint: https://a/i", "keys: {discovery: false}", "http://idp/"
    ),
}


@pytest.mark.parametrize("config", GOOD.values(), ids=GOOD.keys())
def test_what_is_no_contradiction_loads(loads: Loads, config: str) -> None:
    assert loads(config).rules


WRONG = {
    "one issuer twice is one too many, whatever the names": (
        text(f"{MAIN}, {{issuer: https://a.example.com/, audiences: [api]}}"),
        ["1: issuers[1].issuer: is the issuer of issuers[0] too: make them one"],
    ),
    "one issuer twice with one name is said once": (
        text(f"{MAIN}, {MAIN}"),
        ["1: issuers[1].issuer: is the issuer of issuers[0] too: make them one"],
    ),
    "two issuers on one host need names": (
        text("{issuer: https://a/, audiences: [x]}, {issuer: https://a/b, audiences: [x]}"),
        ["1: issuers[1].issuer: issuers[0] is called a too, after its host: give them names"],
    ),
    "two issuers need two names": (
        text(f"{MAIN}, {{issuer: https://b/, name: main, audiences: [x]}}"),
        ["1: issuers[1].name: issuers[0] is called main too: give each issuer its own name"],
    ),
    "a rule's name is its own": (
        text(rules="{name: a}, {name: b}, {name: a}"),
        ["2: rules[2].name: rules[0] is called a too: give each its own name"],
    ),
    "a rule is chosen by policy or by match": (
        text(rules="{name: a, policy: p, match: {}}, {name: b, policy: q, match: 7}"),
        [
            "2: rules[1].match: must be a mapping, lines of the form `key: value`, not the number 7",
            (
                "2: rules[0].policy: is given beside match: keep one of the two, since a rule is chosen by the route's "
                "policy or by the request"
            ),
            (
                "2: rules[1].policy: is given beside match: keep one of the two, since a rule is chosen by the route's "
                "policy or by the request"
            ),
        ],
    ),
    "a policy has one rule": (
        text(rules="{name: a, policy: p}, {name: b, policy: q}, {name: c, policy: p}"),
        ["2: rules[2].policy: rules[0] is for p too, and decides it first: give each policy one rule"],
    ),
    "what is asked of the path is captured by every path": (
        text(
            rules="{name: a, match: {paths: ['/t/{t}/{u}', '/x/{u}']}, "
            "require: {scopes: {none: ['r:{t}:{u}']}, claims: {c: {equals_path: v}}}}"
        ),
        [
            (
                "2: rules[0].require.scopes: 'r:{t}:{u}' asks for {t} of the path, which '/x/{u}' does not capture: "
                "what all paths capture is u"
            ),
            (
                "2: rules[0].require.claims.c.equals_path: asks for {v}, which '/t/{t}/{u}' does not capture: "
                "what all paths capture is u"
            ),
        ],
    ),
    "where there is no path, nothing is captured": (
        text(rules="{name: a, policy: p, require: {scopes: ['{t}']}}, {name: b, require: {scopes: ['{t}']}}"),
        [
            (
                "2: rules[0].require.scopes: '{t}' asks for {t} of the path: the rule has no match.paths that could "
                "capture it"
            ),
            (
                "2: rules[1].require.scopes: '{t}' asks for {t} of the path: the rule has no match.paths that could "
                "capture it"
            ),
        ],
    ),
    "a capture is asked for once, however often it is written": (
        text(rules="{name: a, policy: p, require: {scopes: ['{t}{t}{t}']}}"),
        [
            (
                "2: rules[0].require.scopes: '{t}{t}{t}' asks for {t} of the path: the rule has no match.paths that "
                "could capture it"
            ),
        ],
    ),
    "no path may be read with two different captures": (
        text(rules="{name: a, match: {paths: ['/a/{t}', '/{t}/**']}, require: {scopes: ['{t}']}}"),
        [
            (
                "2: rules[0].require.scopes: '{t}' asks for {t} of the path, and a path can match both '/a/{t}' and "
                "'/{t}/**', where it is not the same: split the rule"
            )
        ],
    ),
    "a bad operator hides nothing else of its rule": (
        text(rules="{name: a, match: {paths: [/x]}, require: {scopes: ['{t}'], claims: {c: {present: false}}}}"),
        [
            "2: rules[0].require.claims.c.present: false (read as false) is not accepted: write true",
            (
                "2: rules[0].require.scopes: '{t}' asks for {t} of the path, which '/x' does not capture: "
                "no name is captured by all paths of the rule"
            ),
        ],
    ),
    "a dash is no name of a rule, for it stands for none in metrics": (
        text(rules="{name: '-'}"),
        [
            (
                "2: rules[0].name: '-' is no name: letters, digits and _ . : / -, starting with a letter or digit, "
                "at most 128"
            )
        ],
    ),
    "an issuer that is required must exist, and one that is meant is guessed": (
        text(rules="{name: a, require: {issuers: [main, mian, elsewhere]}}"),
        [
            "2: rules[0].require.issuers[1]: no issuer is called mian: did you mean main?",
            "2: rules[0].require.issuers[2]: no issuer is called elsewhere: write one of main",
        ],
    ),
    "an issuer is called by its name, not by its host": (
        text(rules="{name: a, require: {issuers: [a.example.com]}}"),
        ["2: rules[0].require.issuers[0]: no issuer is called a.example.com: write one of main"],
    ),
    "each rule knows audiences for each issuer that it accepts": (
        text(
            f"{MAIN}, {{issuer: https://b/}}, {{issuer: https://c/}}",
            "{name: p, access: public}, {name: r}, {name: o, access: optional, require: {issuers: [c, main]}}",
        ),
        [
            (
                "2: rules[1].require.audiences: rule r accepts tokens of issuer b, which has no audiences: "
                "add them here or to issuers[1]"
            ),
            (
                "2: rules[1].require.audiences: rule r accepts tokens of issuer c, which has no audiences: "
                "add them here or to issuers[2]"
            ),
            (
                "2: rules[2].require.audiences: rule o accepts tokens of issuer c, which has no audiences: "
                "add them here or to issuers[2]"
            ),
        ],
    ),
    "a scope is not wanted and refused": (
        text(rules="{name: a, require: {scopes: {all: [x, y], none: [z, y]}}}"),
        ["2: rules[0].require.scopes.none[1]: y is in all too, so that no token can pass: remove one"],
    ),
    "of scopes of which one is wanted, one can be held": (
        text(rules="{name: a, require: {scopes: {any: [x, y], none: [y, x]}}}"),
        [
            (
                "2: rules[0].require.scopes.any: each of these is in none too, so that no token can pass: "
                "add another or remove one"
            )
        ],
    ),
    "public requires nothing, not even nothing": (
        text(rules="{name: a, access: public, require: {}}"),
        ["2: rules[0].require: means nothing where access is public, which ignores the token: remove one of the two"],
    ),
    "the two servers have two addresses": (
        text(more="server: {grpc_address: LOCALHOST:1, admin_address: localhost:1}"),
        ["3: server.admin_address: grpc_address and admin_address are the same: give each its own port"],
    ),
    "the address that is written is the one to change": (
        text(more="server: {grpc_address: 127.0.0.1:9192}"),
        ["3: server.grpc_address: grpc_address and admin_address are the same: give each its own port"],
    ),
    "headers that differ in case are the same": (
        text(more="upstream:\n  headers:\n    X-User: sub\n    x-user: iss"),
        [
            (
                "6: upstream.headers.x-user: is the same header as 'X-User' to many a server "
                "(case, _ . and - do not count): remove one"
            )
        ],
    ),
    "headers that CGI folds into one are the same": (
        text(more="upstream: {headers: {x-user: sub, x_user: iss, x.user: aud}}"),
        [
            (
                "3: upstream.headers.x_user: is the same header as 'x-user' to many a server "
                "(case, _ . and - do not count): remove one"
            ),
            (
                "3: upstream.headers['x.user']: is the same header as 'x-user' to many a server "
                "(case, _ . and - do not count): remove one"
            ),
        ],
    ),
    "an issuer off the machine is https": (
        text("{issuer: http://idp.example.com/, audiences: [x]}"),
        ["1: issuers[0].issuer: is plain http to another machine: write https, or set keys.allow_http to true"],
    ),
    "a key set off the machine is https": (
        text("{issuer: https://idp/, audiences: [x], keys: {jwks_uri: http://idp/}}"),
        ["1: issuers[0].keys.jwks_uri: is plain http to another machine: write https, or set keys.allow_http to true"],
    ),
    "there is one source of keys": (
        text(
            "{issuer: https://a/, audiences: [x], "
            "keys: {discovery: true, jwks_uri: https://a/jwks, jwks_file: jwks.json}}"
        ),
        [
            (
                "1: issuers[0].keys.jwks_uri: discovery and jwks_uri and jwks_file are given: "
                "keep exactly one source of keys"
            )
        ],
    ),
    "there is a source of keys": (
        text("{issuer: https://a/, audiences: [x], keys: {discovery: false}}"),
        ["1: issuers[0].keys.discovery: no source of keys is left: give jwks_uri or jwks_file, or leave this on"],
    ),
    "the interval lies between its bounds, and the one that is written is the one to change": (
        text(
            "{issuer: https://a/, audiences: [x], keys: {refresh_interval: 2s}}, "
            "{issuer: https://b/, audiences: [x], keys: {min_refresh_interval: 10m}}, "
            "{issuer: https://c/, audiences: [x], keys: {max_refresh_interval: 1m}}"
        ),
        [
            (
                "1: issuers[0].keys.refresh_interval: min_refresh_interval (30s) must not be longer than "
                "refresh_interval (2s)"
            ),
            (
                "1: issuers[1].keys.min_refresh_interval: min_refresh_interval (600s) must not be longer than "
                "refresh_interval (300s)"
            ),
            (
                "1: issuers[2].keys.max_refresh_interval: refresh_interval (300s) must not be longer than "
                "max_refresh_interval (60s)"
            ),
        ],
    ),
}

_HERE = "1: issuers[0].introspection"
WRONG |= {
    "a secret is needed": (
        asked("client_id: me"),
        [f"{_HERE}.auth_method: client_secret_basic needs client_secret_file: add it"],
    ),
    "a private key is needed": (
        asked(PRIVATE),
        [f"{_HERE}.auth_method: private_key_jwt needs private_key_file: add it"],
    ),
    "a secret is no private key": (
        asked(f"{PRIVATE}, client_secret_file: secret"),
        [f"{_HERE}.client_secret_file: private_key_jwt needs private_key_file instead"],
    ),
    "a private key is no secret": (
        asked("client_id: me, auth_method: client_secret_post, private_key_file: secret"),
        [f"{_HERE}.private_key_file: client_secret_post needs client_secret_file instead"],
    ),
    "there is one way for the client to prove who it is": (
        asked(f"{SECRET}, private_key_file: secret"),
        [f"{_HERE}.private_key_file: is not what client_secret_basic needs: remove it"],
    ),
    "who asks has a name": (
        asked("client_secret_file: secret"),
        [f"{_HERE}.client_id: is required: add it"],
    ),
    "a place to ask at is off the machine only with TLS": (
        asked(f"{SECRET}, endpoint: 'http://idp/i'"),
        [f"{_HERE}.endpoint: is plain http to another machine: write https, or set keys.allow_http to true"],
    ),
    "where to ask is not learnt from another machine without TLS": (
        asked(SECRET, "keys: {jwks_file: jwks.json}", "http://idp/"),
        [
            (
                f"{_HERE}.endpoint: is to be found by metadata that are plain http to another machine: "
                "write https, or set keys.allow_http to true"
            )
        ],
    ),
    "there is a place to ask at": (
        asked(SECRET, "keys: {discovery: false, jwks_file: jwks.json}"),
        [f"{_HERE}.endpoint: is required where keys.discovery is off, since nothing tells where to ask: add it"],
    ),
    "there is a place to ask at where there are no keys either": (
        asked(SECRET, "keys: {discovery: false}"),
        [f"{_HERE}.endpoint: is required where keys.discovery is off, since nothing tells where to ask: add it"],
    ),
    "JWTs are asked about only once they were verified": (
        asked(f"{SECRET}, mode: always, endpoint: https://a/i", "keys: {discovery: false}"),
        [
            (
                f"{_HERE}.mode: asks about JWTs once they were verified, and there is no source of keys: "
                "give one, or write opaque"
            )
        ],
    ),
}


@pytest.mark.parametrize(("config", "problems"), WRONG.values(), ids=WRONG.keys())
def test_what_contradicts_itself_is_refused(refuses: Refuses, config: str, problems: list[str]) -> None:
    assert refuses(config) == [f"config.yaml:{problem}" for problem in problems]


ONCE = {
    "an issuer whose name cannot be read may be the one that a rule means": text(
        "{issuer: https://a/, name: 1, audiences: [x]}", "{name: r, require: {issuers: [b]}}"
    ),
    "an issuer that is no mapping may be the one that a rule means": text(
        f"{MAIN}, https://b/", "{name: r, require: {issuers: [b]}}"
    ),
    "issuers that are missing may be the ones that a rule means": "rules: [{name: r, require: {issuers: [b]}}]",
    "an issuer that has no URL may be the one that a rule means": text(
        "{audiences: [x]}", "{name: r, require: {issuers: [b]}}"
    ),
    "audiences of an issuer that cannot be read are audiences": text("{issuer: https://a/, audiences: api}"),
    "audiences of a rule that cannot be read are audiences": text(
        "{issuer: https://a/}", "{name: r, require: {audiences: [1]}}"
    ),
    "a rule whose issuers cannot be read may accept none without audiences": text(
        f"{MAIN}, {{issuer: https://b/}}", "{name: r, require: {issuers: main}}"
    ),
    "a rule whose access cannot be read may be public": text(
        "{issuer: https://a/}", "{name: r, access: open, require: {}}"
    ),
    "a name that cannot be read is not the same as the host": text(
        "{issuer: https://a/, audiences: [x]}, {issuer: https://a/b, name: 1, audiences: [x]}"
    ),
    "rules without names do not have the same": text(rules="{match: {}}") + "rules_: 1",
    "a source of keys that cannot be read is the one": text(
        "{issuer: https://a/, audiences: [x], keys: {jwks_file: gone.json}}"
    ),
    "a source of keys that cannot be read is a source": text(
        "{issuer: https://a/, audiences: [x], keys: {discovery: false, jwks_uri: a}}"
    ),
    "where the keys of an http issuer come from is not known": text(
        "{issuer: http://a/, audiences: [x], keys: {jwks_uri: 1}}"
    ),
    "keys that cannot be read have no sources to count": text("{issuer: https://a/, audiences: [x], keys: none}"),
    "intervals that cannot be read are not compared": text(
        "{issuer: https://a/, audiences: [x], keys: {refresh_interval: 5, min_refresh_interval: 10m}}"
    ),
    "introspection without a client is introspection": asked("client_secret_file: secret", "keys: {discovery: false}"),
    "an issuer with introspection that lacks its client is the one that a rule means": text(
        "{issuer: https://a/, name: b, audiences: [x], introspection: {}}", "{name: r, require: {issuers: [b]}}"
    ),
    "a secret that cannot be read is a secret": asked("client_id: me, client_secret_file: gone"),
    "a way of authentication that cannot be read may need any file": asked(f"{SECRET}, auth_method: basic"),
    "an endpoint that cannot be read is an endpoint": asked(f"{SECRET}, endpoint: i", "keys: {discovery: false}"),
    "keys that cannot be read may lead to an endpoint": asked(SECRET, "keys: none"),
    "metadata that are not protected are the same for keys and endpoint": asked(SECRET, "", "http://idp/"),
    "introspection that cannot be read is introspection": text(
        "{issuer: https://a/, audiences: [x], introspection: yes, keys: {discovery: false}}"
    ),
    "an address that cannot be read is not compared": text(
        more="server: {grpc_address: 127.0.0.1:9192, admin_address: 9192}"
    ),
}


@pytest.mark.parametrize("config", ONCE.values(), ids=ONCE.keys())
def test_what_follows_from_a_problem_is_not_a_problem_of_its_own(refuses: Refuses, config: str) -> None:
    written = [problem for problem in refuses(config) if "rules_" not in problem]
    assert len(written) == 1


def test_a_rule_without_a_name_and_an_issuer_without_a_url_are_still_looked_at(refuses: Refuses) -> None:
    assert refuses(text("{keys: {discovery: false}}", "{access: optional}")) == [
        "config.yaml:1: issuers[0].issuer: is required: add it",
        (
            "config.yaml:1: issuers[0].keys.discovery: no source of keys is left: "
            "give jwks_uri or jwks_file, or leave this on"
        ),
        "config.yaml:2: rules[0].name: is required: add it",
        (
            "config.yaml:2: rules[0].require.audiences: the rule accepts tokens of an issuer, which has no audiences: "
            "add them here or to issuers[0]"
        ),
    ]


def test_two_sources_of_keys_are_two_even_if_neither_can_be_read(refuses: Refuses) -> None:
    found = refuses(text("{issuer: https://a/, audiences: [x], keys: {jwks_uri: a, jwks_file: gone.json}}"))
    assert found[-1] == (
        "config.yaml:1: issuers[0].keys.jwks_file: jwks_uri and jwks_file are given: keep exactly one source of keys"
    )
