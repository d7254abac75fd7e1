"""Checks between keys; and that each problem is reported once, where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from authz_service.config.model import Settings

if TYPE_CHECKING:
    from config.conftest import Loads, Refuses

MAIN = "{issuer: https://a.example.com/, name: main, audiences: [api]}"
ANY = "{name: any}"


SECRET = "client_id: me, client_secret_file: secret"
PRIVATE = "client_id: me, auth_method: private_key_jwt"


def introspecting(introspection: str, more: str = "", issuer: str = "https://a/") -> str:
    """One issuer with introspection."""
    return text(f"{{issuer: '{issuer}', audiences: [api], introspection: {{{introspection}}}, {more}}}")


POLLED = "poll_endpoint: https://a/poll, audience: api"
CLIENT = "client_id: me, client_secret_file: secret"


def receiving(events: str, more: str = "", issuer: str = "https://a/") -> str:
    """An issuer with security events."""
    return f"{{issuer: '{issuer}', audiences: [api], security_events: {{{events}}}, {more}}}"


def text(issuers: str = MAIN, rules: str = ANY, more: str = "") -> str:
    return f"issuers: [{issuers}]\nrules: [{rules}]\n{more}"


TEMPLATE = "issuer: 'https://login/{t}/v2.0', audiences: [api]"
CERTIFICATE = "keys: {client_certificate_file: secret, client_key_file: secret}"
KEYS = "keys: {jwks_uri: https://login/keys}"
IGNORING = "{issuer: https://a.example.com/, name: a, audiences: [x], confirmation: ignore}"
GOOD = {
    "a template with keys and a name": text(f"{{{TEMPLATE}, name: t, {KEYS}}}"),
    "a template with listed tenants, beside one of its issuers": text(
        f"{{{TEMPLATE}, name: t, tenants: [a, b], {KEYS}}}, {{issuer: https://login/a/v2.0, audiences: [api]}}"
    ),
    "templates of different tenants": text(
        f"{{{TEMPLATE}, name: t, tenants: [a], {KEYS}}}, {{{TEMPLATE}, name: u, tenants: [b], {KEYS}}}"
    ),
    "an issuer that is not a URL": text(f"{{issuer: kubernetes/serviceaccount, audiences: [api], {KEYS}}}"),
    "an issuer that is not a URL, with introspection": introspecting(
        f"{SECRET}, endpoint: https://a/x", "keys: {discovery: false}", "urn:idp"
    ),
    "tenants: any without a template": text("{issuer: https://a/, audiences: [api], tenants: any}"),
    "captures with several suffixes": text(
        rules="{name: a, match: {paths: ['/a/{t}:x', '/a/{t}:y', '/b/{t}']}, require: {scopes: ['{t}']}}"
    ),
    "encoded slashes in one of two paths": text(
        rules="{name: a, match: {paths: ['/a', '/a/{t}'], encoded_slash: true}}"
    ),
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
    "proof by DPoP in Authorization, in any case": text(
        rules="{name: r, require: {proof: dpop}}, {name: s, match: {paths: [/s]}, require: {proof: dpop}, "
        "credential: {scheme: bearer}}, {name: t, match: {paths: [/t]}, require: {proof: dpop}, "
        "credential: {scheme: DPOP}}"
    ),
    "proof by DPoP in another header with a scheme": text(
        rules="{name: r, require: {proof: dpop}, credential: {header: x-token, scheme: Bearer}}"
    ),
    "proof by certificate, or any, where DPoP is not accepted": text(
        rules="{name: r, require: {proof: mtls}, credential: {header: x-token}}, {name: s, match: {paths: [/s]}, "
        "require: {proof: any}, credential: {header: x-token}}"
    ),
    "proof of tokens of which one issuer's are verified": text(
        f"{IGNORING}, {{issuer: https://b/, audiences: [x]}}", "{name: r, require: {proof: any}}"
    ),
    "an alternative with proof for the issuer that verifies": text(
        f"{IGNORING}, {{issuer: https://b/, name: b, audiences: [x]}}",
        "{name: r, require: {any_of: [{issuers: [a]}, {issuers: [b], proof: dpop}]}}",
    ),
    "ignored confirmations without proof": text(IGNORING),
    "a key of nonces": text(more="dpop: {nonce: required, nonce_key_file: secret}"),
    "no key of nonces, and none required": text(more="dpop: {nonce: off, nonce_key_file: null}"),
    "resources that differ in host or path": text(
        more="resources: [{resource: https://a}, {resource: https://b}, {resource: https://a/x}, "
        "{resource: 'https://a:443/x/y', issuers: [main]}]"
    ),
    "resources with different ports and separate paths": text(
        more="resources: [{resource: https://a/x}, {resource: 'https://a:8443/xy'}]"
    ),
    "a resource beside an issuer that cannot be listed": text(
        f"{MAIN}, {{{TEMPLATE}, name: t, {KEYS}}}", more="resources: [{resource: https://a}]"
    ),
    "no upstream headers": text(more="upstream: {headers: {}}"),
    "one claim in two headers": text(more="upstream: {headers: {a: sub, b: sub}}"),
    "plain http on this machine": text("{issuer: 'http://[::1]:8080/x', name: a, audiences: [api]}"),
    "plain http with allow_http": text("{issuer: http://idp/, name: a, audiences: [api], keys: {allow_http: true}}"),
    "a plain http issuer whose keys come by https": text(
        "{issuer: http://idp/, audiences: [api], keys: {jwks_uri: https://idp/jwks}}"
    ),
    "a plain http issuer whose keys are a file": text(
        "{issuer: http://idp/, audiences: [api], keys: {jwks_file: jwks.json}}"
    ),
    "metadata at another address, plain on this machine": text(
        "{issuer: https://idp/, audiences: [api], keys: {metadata_url: 'http://127.0.0.1/m'}}"
    ),
    "a metadata address for the introspection endpoint": introspecting(
        SECRET, "keys: {jwks_uri: https://idp/j, metadata_url: https://idp/m}"
    ),
    "discovery turned off beside another source": text(
        "{issuer: https://idp/, audiences: [api], keys: {discovery: false, jwks_uri: https://idp/jwks}}"
    ),
    "a rule by policy, and one that matches": text(rules="{name: a, policy: p}, {name: b, policy: q}, {name: c}"),
    "captures that every path has": text(
        rules="{name: a, match: {paths: ['/t/{t}/**', '/x/y/{t}']}, "
        "require: {scopes: {any: ['r:{t}']}, claims: {c: {equals_path: t}}}}"
    ),
    "captures at two places of paths that do not overlap": text(
        rules="{name: a, match: {paths: ['/a/{t}', '/{t}/b/c']}, require: {scopes: ['{t}']}}"
    ),
    "a capture at two places that nothing uses": text(rules="{name: a, match: {paths: ['/a/{t}', '/{t}/b']}}"),
    "intervals that are equal": text(
        "{issuer: https://a/, audiences: [x], "
        "keys: {min_refresh_interval: 1m, refresh_interval: 60s, max_refresh_interval: 1m}}"
    ),
}

GOOD |= {
    "introspection by discovery": introspecting(SECRET),
    "introspection by discovery beside a key set": introspecting(SECRET, "keys: {jwks_file: jwks.json}"),
    "introspection without keys": introspecting(f"{SECRET}, endpoint: https://a/i", "keys: {discovery: false}"),
    "a file in PEM": text("{issuer: https://a/, audiences: [x], keys: {pem_file: jwks.json}}"),
    "a profile and its token type": text(
        "{issuer: https://a/, audiences: [x], access_token_profile: rfc9068, token_types: [JWT, application/AT+JWT]}"
    ),
    "introspection beside a key set": introspecting(f"{SECRET}, endpoint: https://a/i", "keys: {jwks_file: jwks.json}"),
    "introspection with a private key": introspecting(f"{PRIVATE}, private_key_file: secret"),
    "introspection with a client certificate": introspecting(
        "client_id: me, auth_method: tls_client_auth", CERTIFICATE
    ),
    "introspection with a bearer token": introspecting(
        "client_id: me, auth_method: bearer_token, bearer_token_file: secret"
    ),
    "introspection with the secret in the form": introspecting(f"{SECRET}, auth_method: client_secret_post"),
    "introspection of JWTs": introspecting(f"{SECRET}, mode: always"),
    "introspection on this machine": introspecting(f"{SECRET}, endpoint: 'http://127.0.0.1:1/i'"),
    "introspection over plain http with allow_http": introspecting(
        f"{SECRET}, endpoint: 'http://idp/i'", "keys: {allow_http: true}"
    ),
    "an http issuer with introspection only": introspecting(
        f"{SECRET}, endpoint: https://a/i", "keys: {discovery: false}", "http://idp/"
    ),
}


@pytest.mark.parametrize("config", GOOD.values(), ids=GOOD.keys())
def test_consistent_keys_load(loads: Loads, config: str) -> None:
    assert loads(config).rules


WRONG = {
    "a duplicate issuer, whatever the names": (
        text(f"{MAIN}, {{issuer: https://a.example.com/, audiences: [api]}}"),
        ["1: issuers[1].issuer: is also the issuer of issuers[0]: merge the two"],
    ),
    "a duplicate issuer with the same name is reported once": (
        text(f"{MAIN}, {MAIN}"),
        ["1: issuers[1].issuer: is also the issuer of issuers[0]: merge the two"],
    ),
    "two issuers on one host need names": (
        text("{issuer: https://a/, audiences: [x]}, {issuer: https://a/b, audiences: [x]}"),
        ["1: issuers[1].issuer: issuers[0] is also named a, after its host: give each issuer a name"],
    ),
    "two issuers with one name": (
        text(f"{MAIN}, {{issuer: https://b/, name: main, audiences: [x]}}"),
        ["1: issuers[1].name: issuers[0] is also named main: give each issuer its own name"],
    ),
    "two rules with one name": (
        text(rules="{name: a}, {name: b}, {name: a}"),
        ["2: rules[2].name: rules[0] is also named a: give each rule its own name"],
    ),
    "policy and match": (
        text(rules="{name: a, policy: p, match: {}}, {name: b, policy: q, match: 7}"),
        [
            "2: rules[1].match: must be a mapping, lines of the form `key: value`, not the number 7",
            (
                "2: rules[0].policy: cannot be combined with match, since either the route's policy or the "
                "request selects a rule: keep one of the two"
            ),
            (
                "2: rules[1].policy: cannot be combined with match, since either the route's policy or the "
                "request selects a rule: keep one of the two"
            ),
        ],
    ),
    "two rules with one policy": (
        text(rules="{name: a, policy: p}, {name: b, policy: q}, {name: c, policy: p}"),
        ["2: rules[2].policy: rules[0] also has policy p, and decides first: give each policy one rule"],
    ),
    "a capture that some path lacks": (
        text(
            rules="{name: a, match: {paths: ['/t/{t}/{u}', '/x/{u}']}, "
            "require: {scopes: {none: ['r:{t}:{u}']}, claims: {c: {equals_path: v}}}}"
        ),
        [
            (
                "2: rules[0].require.scopes: 'r:{t}:{u}' uses {t} of the path, but '/x/{u}' does not capture it: "
                "all paths of the rule capture u"
            ),
            (
                "2: rules[0].require.claims.c.equals_path: uses {v} of the path, but '/t/{t}/{u}' does not capture it: "
                "all paths of the rule capture u"
            ),
        ],
    ),
    "a capture without paths": (
        text(rules="{name: a, policy: p, require: {scopes: ['{t}']}}, {name: b, require: {scopes: ['{t}']}}"),
        [
            (
                "2: rules[0].require.scopes: '{t}' uses {t} of the path, but the rule has no match.paths that "
                "capture it: add them"
            ),
            (
                "2: rules[1].require.scopes: '{t}' uses {t} of the path, but the rule has no match.paths that "
                "capture it: add them"
            ),
        ],
    ),
    "a repeated capture is reported once": (
        text(rules="{name: a, policy: p, require: {scopes: ['{t}{t}{t}']}}"),
        [
            (
                "2: rules[0].require.scopes: '{t}{t}{t}' uses {t} of the path, but the rule has no match.paths that "
                "capture it: add them"
            ),
        ],
    ),
    "a path with two different captures": (
        text(rules="{name: a, match: {paths: ['/a/{t}', '/{t}/**']}, require: {scopes: ['{t}']}}"),
        [
            (
                "2: rules[0].require.scopes: '{t}' uses {t} of the path, but a path can match both '/a/{t}' and "
                "'/{t}/**', which capture different text: split the rule"
            )
        ],
    ),
    "a path whose capture ends in two ways": (
        text(rules="{name: a, match: {paths: ['/a/{t}:x', '/a/{t}']}, require: {scopes: ['{t}']}}"),
        [
            (
                "2: rules[0].require.scopes: '{t}' uses {t} of the path, but a path can match both '/a/{t}:x' and "
                "'/a/{t}', which capture different text: split the rule"
            )
        ],
    ),
    "encoded slashes without a capture": (
        text(
            rules="{name: a, match: {paths: ['/a/**'], encoded_slash: true}}, {name: b, match: {encoded_slash: true}}"
        ),
        [
            (
                f"2: rules[{place}].match.encoded_slash: lets a {{name}} match encoded slashes, but the rule's paths "
                "have no {name}: add one, or remove this line"
            )
            for place in (0, 1)
        ],
    ),
    "proof by DPoP in a header without a scheme": (
        text(rules="{name: r, require: {proof: dpop}, credential: {header: x-token}}"),
        [
            (
                "2: rules[0].require.proof: the rule's token is in X-Token, where the scheme DPoP is not accepted, so "
                "no token can pass: write proof: mtls, or scheme: Bearer in credential"
            )
        ],
    ),
    "alternatives with proof by DPoP with another scheme": (
        text(
            rules="{name: r, require: {any_of: [{proof: mtls}, {proof: dpop}, {clients: [c]}]}, "
            "credential: {scheme: Token}}"
        ),
        [
            (
                "2: rules[0].require.any_of[1].proof: the rule's token is in Authorization: Token, where the scheme "
                "DPoP is not accepted, so the alternative never holds: write proof: mtls, or scheme: Bearer in "
                "credential"
            )
        ],
    ),
    "proof of tokens whose confirmation is ignored": (
        text(IGNORING, "{name: r, require: {proof: mtls, issuers: [a]}}, {name: s, match: {}, require: {proof: any}}"),
        [
            (
                f"2: rules[{place}].require.proof: all issuers of the rule have confirmation: ignore, which takes no "
                "token as bound, so no token can pass: write confirmation: verify, or remove this line"
            )
            for place in (0, 1)
        ],
    ),
    "alternatives with proof for the issuer whose confirmation is ignored": (
        text(
            f"{IGNORING}, {{issuer: https://b/, name: b, audiences: [x]}}",
            "{name: r, require: {any_of: [{issuers: [a], proof: dpop}, {issuers: [b]}]}}, "
            "{name: s, match: {paths: [/s]}, require: {issuers: [a], any_of: [{proof: any}, {clients: [c]}]}}, "
            "{name: t, match: {paths: [/t]}, require: {proof: any, any_of: [{issuers: [a]}]}}",
        ),
        [
            (
                f"2: rules[{key}.proof: all issuers of the rule have confirmation: ignore, which takes no token as "
                f"bound, so {effect}: write confirmation: verify, or remove this line"
            )
            for key, effect in (
                ("0].require.any_of[0]", "the alternative never holds"),
                ("1].require.any_of[0]", "the alternative never holds"),
                ("2].require", "no token can pass"),
            )
        ],
    ),
    "a key of nonces that are not required": (
        text(more="dpop: {nonce_key_file: secret}"),
        ["3: dpop.nonce_key_file: has no effect without nonce: required: add that, or remove this line"],
    ),
    "two places for decisions": (
        text(more="logging: {decisions_file: a.log, decisions_socket: a.sock}"),
        ["3: logging.decisions_socket: decisions go to decisions_file already: remove one of the two"],
    ),
    "a place for no decisions": (
        text(more="logging: {decisions: none, decisions_socket: a.sock}"),
        [
            (
                "3: logging.decisions_socket: has no effect with decisions: none: write decisions: denied or all, "
                "or remove this line"
            )
        ],
    ),
    "a wrong operator does not hide other problems of its rule": (
        text(rules="{name: a, match: {paths: [/x]}, require: {scopes: ['{t}'], claims: {c: {present: false}}}}"),
        [
            "2: rules[0].require.claims.c.present: false is not accepted: write true",
            (
                "2: rules[0].require.scopes: '{t}' uses {t} of the path, but '/x' does not capture it: "
                "no name is captured by all paths of the rule"
            ),
        ],
    ),
    "the name - , which metrics use for no rule": (
        text(rules="{name: '-'}"),
        [
            (
                "2: rules[0].name: '-' is not a name: write up to 128 letters, digits and _ . : / -, "
                "with a letter or digit first"
            )
        ],
    ),
    "a template with discovery": (
        text(f"{{{TEMPLATE}, name: t}}"),
        [
            (
                "1: issuers[0].issuer: is a template, so keys cannot be discovered: "
                "set keys.jwks_uri or another source of keys"
            )
        ],
    ),
    "a template without a name": (
        text(f"{{{TEMPLATE}, {KEYS}}}"),
        ["1: issuers[0].issuer: is a template, and needs a name for metrics, logs and rules: add name"],
    ),
    "a template with introspection": (
        text(f"{{{TEMPLATE}, name: t, {KEYS}, introspection: {{{SECRET}, endpoint: https://a/}}}}"),
        ["1: issuers[0].introspection: cannot be combined with a template, since a server belongs to one issuer"],
    ),
    "tenants without a template": (
        text("{issuer: https://a/, audiences: [api], tenants: [t]}"),
        ["1: issuers[0].tenants: has no effect without a {name} in issuer: remove it"],
    ),
    "no tenants": (
        text(f"{{{TEMPLATE}, name: t, {KEYS}, tenants: []}}"),
        ["1: issuers[0].tenants: is empty, so no token would do: write any, or a list of tenants"],
    ),
    "one tenant without a list": (
        text(f"{{{TEMPLATE}, name: t, {KEYS}, tenants: acme}}"),
        [
            "1: issuers[0].tenants: must be any or a list, not the string 'acme': write [\"acme\"]",
        ],
    ),
    "templates that overlap": (
        text(
            f"{{{TEMPLATE}, name: t, {KEYS}}}, {{issuer: 'https://login/x/{{u}}', name: u, audiences: [api], {KEYS}}}"
        ),
        [
            (
                "1: issuers[1].issuer: accepts issuers that issuers[0] accepts as well: "
                "give each its own tenants, or merge the two"
            )
        ],
    ),
    "an issuer that is not a URL, with discovery": (
        text("{issuer: idp.example.com, audiences: [api]}"),
        [
            (
                "1: issuers[0].issuer: is not a URL, so keys cannot be discovered: "
                "set keys.jwks_uri or another source of keys, or write https://host/path"
            )
        ],
    ),
    "an issuer that is not a URL, with an endpoint to discover": (
        introspecting(SECRET, KEYS, "urn:idp"),
        ["1: issuers[0].introspection.endpoint: is required if the issuer is not a URL: add it"],
    ),
    "an issuer that is not a URL, and cannot be a name": (
        text(f"{{issuer: sa@project.example, audiences: [api], {KEYS}}}"),
        ["1: issuers[0].issuer: is not a URL, and needs a name for metrics, logs and rules: add name"],
    ),
    "an unknown issuer, with a suggestion": (
        text(rules="{name: a, require: {issuers: [main, mian, elsewhere]}}"),
        [
            "2: rules[0].require.issuers[1]: no issuer is named mian: did you mean main?",
            "2: rules[0].require.issuers[2]: no issuer is named elsewhere: write one of main",
        ],
    ),
    "a named issuer referred to by its host": (
        text(rules="{name: a, require: {issuers: [a.example.com]}}"),
        ["2: rules[0].require.issuers[0]: no issuer is named a.example.com: write one of main"],
    ),
    "an accepted issuer without audiences": (
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
    "a scope both required and forbidden": (
        text(rules="{name: a, require: {scopes: {all: [x, y], none: [z, y]}}}"),
        ["2: rules[0].require.scopes.none[1]: y is also in all, so no token can pass: remove one"],
    ),
    "alternative scopes that are all forbidden": (
        text(rules="{name: a, require: {scopes: {any: [x, y], none: [y, x]}}}"),
        [
            (
                "2: rules[0].require.scopes.any: each of these is also in none, so no token can pass: "
                "add another or remove one"
            )
        ],
    ),
    "a scope forbidden that a required one implies": (
        text(
            rules="{name: a, require: {scopes: {all: [admin], none: [x, read]}}}", more="scope_implies: {admin: [read]}"
        ),
        [
            (
                "2: rules[0].require.scopes.none[1]: read is implied by admin, which is in all, so no token can pass: "
                "remove one"
            )
        ],
    ),
    "the same beside a mistake elsewhere": (
        text(rules="{name: a, require: {scopes: {all: [b], none: [c]}}}", more="scope_implies: {b: [c]}\nx: 1"),
        [
            "2: rules[0].require.scopes.none[0]: c is implied by b, which is in all, so no token can pass: remove one",
            f"4: x: is not a key here: write one of {', '.join(Settings.declared)}",
        ],
    ),
    "scopes of an alternative that the rule forbids": (
        text(rules="{name: a, require: {scopes: {none: [x]}, any_of: [{scopes: [y, x]}, {scopes: {any: [x]}}]}}"),
        [
            (
                "2: rules[0].require.any_of[0].scopes.all[1]: x is in scopes.none of the rule, so the alternative "
                "never holds: remove one"
            ),
            (
                "2: rules[0].require.any_of[1].scopes.any: each of these is also in none, so no token can pass: "
                "add another or remove one"
            ),
        ],
    ),
    "an alternative for an issuer that the rule does not accept": (
        text(
            f"{MAIN}, {{issuer: https://b/, name: b, audiences: [api]}}",
            "{name: a, require: {issuers: [main], any_of: [{issuers: [main, b]}, {issuers: [b]}, {issuers: [c]}]}}",
        ),
        [
            "2: rules[0].require.any_of[2].issuers[0]: no issuer is named c: write one of main, b",
            (
                "2: rules[0].require.any_of[1].issuers: has none of the rule's issuers (main), so the alternative "
                "never holds: add one, or remove it"
            ),
        ],
    ),
    "an alternative for an issuer without audiences": (
        text(
            f"{MAIN}, {{issuer: https://b/, name: b}}",
            "{name: a, require: {any_of: [{audiences: [x]}, {issuers: [main]}, {issuers: [b]}, {clients: [c]}]}}",
        ),
        [
            (
                "2: rules[0].require.any_of[2].audiences: rule a accepts tokens of issuer b, which has no audiences: "
                "add them here or to issuers[1]"
            ),
            (
                "2: rules[0].require.any_of[3].audiences: rule a accepts tokens of issuer b, which has no audiences: "
                "add them here or to issuers[1]"
            ),
        ],
    ),
    "a capture that an alternative uses and no path has": (
        text(
            rules="{name: a, match: {paths: ['/{id}']}, "
            "require: {any_of: [{scopes: ['r:{t}']}, {claims: {c: {contains_path: u}}}]}}"
        ),
        [
            (
                "2: rules[0].require.any_of[0].scopes: 'r:{t}' uses {t} of the path, but '/{id}' does not capture it: "
                "all paths of the rule capture id"
            ),
            (
                "2: rules[0].require.any_of[1].claims.c.contains_path: uses {u} of the path, but '/{id}' does not "
                "capture it: all paths of the rule capture id"
            ),
        ],
    ),
    "mistakes in an alternative, without problems that merely follow": (
        text(
            "{issuer: https://b/, name: b}",
            "{name: a, require: {any_of: [{}, {any_of: [{clients: [c]}]}, {claims: {c: {prefix: ''}}}, "
            "{issuers: []}]}}",
        ),
        [
            (
                "2: rules[0].require.any_of[0]: is empty, so any token would do: write at least one requirement, or "
                "remove any_of"
            ),
            "2: rules[0].require.any_of[1].any_of: is not a key here: any_of belongs in rules[].require",
            (
                "2: rules[0].require.any_of[2].claims.c.prefix: is empty, so any string would do: write at least one "
                "character, or {present: true}"
            ),
            "2: rules[0].require.any_of[3].issuers: is empty: give at least one",
        ],
    ),
    "no alternative": (
        text(rules="{name: a, require: {any_of: []}}"),
        ["2: rules[0].require.any_of: is empty: give at least one"],
    ),
    "a prior actor": (
        text(rules="{name: a, require: {any_of: [{claims: {act.act.sub: x}}]}}"),
        [
            (
                "2: rules[0].require.any_of[0].claims['act.act.sub']: 'act.act.sub' leads to a prior actor, and only "
                "the outermost one may decide (RFC 8693 section 4.1): write act.sub for the current actor, or remove it"
            )
        ],
    ),
    "a scope with a brace that implies another": (
        text(more="scope_implies: {'a:{t}': [b], c: [], d: ['{t}']}"),
        [
            (
                "3: scope_implies['a:{t}']: 'a:{t}' has a brace, and captures of the path have no meaning here: write "
                "a plain scope"
            ),
            "3: scope_implies.c: is empty: give at least one",
            (
                "3: scope_implies.d[0]: '{t}' has a brace, and captures of the path have no meaning here: write "
                "a plain scope"
            ),
        ],
    ),
    "public with an empty require": (
        text(rules="{name: a, access: public, require: {}}"),
        ["2: rules[0].require: has no effect with access: public, which ignores tokens: remove one of the two"],
    ),
    "public with a credential": (
        text(rules="{name: a, access: public, credential: {header: x-jwt}}"),
        ["2: rules[0].credential: has no effect with access: public, which ignores tokens: remove one of the two"],
    ),
    "two resources at one place": (
        text(more="resources:\n- resource: https://a/x\n- resource: https://A:8443/%78/\n- resource: https://b\n"),
        [
            (
                "5: resources[1].resource: has the host and path of resources[0] (case of the host, port, and a slash "
                "at the end do not count): merge the two, or give each its own path"
            )
        ],
    ),
    "two resources that differ only in the port": (
        text(more="resources: [{resource: 'https://a:8443/x/y'}, {resource: https://a/x}]"),
        [
            (
                "3: resources[1].resource: differs from resources[0] in the port, which does not count, and one path "
                "is under the other: give both the same port, or separate paths"
            )
        ],
    ),
    "issuers of a resource that do not exist or cannot be listed": (
        text(
            f"{MAIN}, {{{TEMPLATE}, name: t, {KEYS}}}, {{issuer: urn:x, name: u, audiences: [a], {KEYS}}}",
            more="resources: [{resource: https://a, issuers: [mian, t, u, main]}]",
        ),
        [
            "3: resources[0].issuers[0]: no issuer is named mian: did you mean main?",
            "3: resources[0].issuers[1]: t cannot be listed, since its issuer is a template: remove it here",
            "3: resources[0].issuers[2]: u cannot be listed, since its issuer is not a URL: remove it here",
        ],
    ),
    "a resource without an issuer that can be listed": (
        text(f"{{{TEMPLATE}, name: t, {KEYS}}}", more="resources: [{resource: https://a}]"),
        [
            (
                "3: resources[0].resource: has no authorization server to list, since no issuer is a URL: add one that "
                "is, or remove the resource"
            )
        ],
    ),
    "a resource at the host of every request whose host is none": (
        text(more="resources: [{resource: 'https://a,b/x'}]"),
        [
            (
                "3: resources[0].resource: 'https://a,b/x' has a host that no request can have: write a host name or "
                "an address"
            )
        ],
    ),
    "a resource that looks like a pattern": (
        text(more="resources: [{resource: 'https://a/{b}'}, {resource: 'https://a/b/*'}]"),
        [
            (
                f"3: resources[{place}].resource: 'https://a/{path}' has {character} in its path, where nothing stands "
                "for other characters: write the one address that clients use; requests under it belong to it as well"
            )
            for place, path, character in ((0, "{b}", "{"), (1, "b/*", "*"))
        ],
    ),
    "resources that could not be read are not compared": (
        text(more="resources: [{name: x}, {resource: 7}, {resource: https://a, issuers: []}]"),
        [
            "3: resources[0].resource: is required: add it",
            ("3: resources[1].resource: '7' is not a URL: write https://host/path, or http for a host on this machine"),
            "3: resources[2].issuers: is empty: give at least one",
        ],
    ),
    "a rule that matches the credential of another": (
        text(rules="{name: a, match: {headers: {X-Jwt: a}}}, {name: b, credential: {header: x-jwt}}"),
        ["2: rules[0].match.headers.x-jwt: is the credential of rules[1], which a rule cannot match: remove it"],
    ),
    "a claim compared with the credential of another rule": (
        text(
            rules="{name: a, require: {any_of: [{claims: {c: {equals_header: X-Jwt}}}]}}, "
            "{name: b, credential: {header: x-jwt}}"
        ),
        [
            (
                "2: rules[0].require.any_of[0].claims.c.equals_header: is the credential of rules[1], which cannot be "
                "compared with a claim: remove it"
            )
        ],
    ),
    "one address for two servers": (
        text(more="server: {grpc_address: LOCALHOST:1, admin_address: localhost:1}"),
        ["3: server.admin_address: grpc_address and admin_address are the same: give each its own port"],
    ),
    "the problem is at the address in the file": (
        text(more="server: {grpc_address: 127.0.0.1:9192}"),
        ["3: server.grpc_address: grpc_address and admin_address are the same: give each its own port"],
    ),
    "headers that differ in case": (
        text(more="upstream:\n  headers:\n    X-User: sub\n    x-user: iss"),
        [
            "6: upstream.headers.x-user: is the same name as 'X-User', since case does not count: remove one",
        ],
    ),
    "headers that CGI folds into one": (
        text(more="upstream: {headers: {x-user: sub, x_user: iss, x.user: aud}}"),
        [
            (
                "3: upstream.headers.x_user: is the same header as 'x-user' to many servers "
                "(case, _ . and - do not count): remove one"
            ),
            (
                "3: upstream.headers['x.user']: is the same header as 'x-user' to many servers "
                "(case, _ . and - do not count): remove one"
            ),
        ],
    ),
    "a remote issuer over http": (
        text("{issuer: http://idp.example.com/, audiences: [x]}"),
        ["1: issuers[0].issuer: is plain http to another host: write https, or set keys.allow_http to true"],
    ),
    "a remote key set over http": (
        text("{issuer: https://idp/, audiences: [x], keys: {jwks_uri: http://idp/}}"),
        ["1: issuers[0].keys.jwks_uri: is plain http to another host: write https, or set keys.allow_http to true"],
    ),
    "remote metadata at an address of its own over http": (
        text("{issuer: https://idp/, audiences: [x], keys: {metadata_url: http://idp/}}"),
        ["1: issuers[0].keys.metadata_url: is plain http to another host: write https, or set keys.allow_http to true"],
    ),
    "an address of metadata that nothing needs": (
        text("{issuer: https://idp/, audiences: [x], keys: {jwks_uri: https://idp/j, metadata_url: https://idp/}}"),
        ["1: issuers[0].keys.metadata_url: is not used, since nothing is discovered: remove it"],
    ),
    "a client certificate without its key": (
        text("{issuer: https://idp/, audiences: [x], keys: {client_certificate_file: tls.crt}}"),
        ["1: issuers[0].keys.client_certificate_file: requires client_key_file: add it"],
    ),
    "the key of a client certificate alone": (
        text("{issuer: https://idp/, audiences: [x], keys: {client_key_file: tls.key}}"),
        ["1: issuers[0].keys.client_key_file: requires client_certificate_file: add it"],
    ),
    "several sources of keys": (
        text(
            "{issuer: https://a/, audiences: [x], "
            "keys: {discovery: true, jwks_uri: https://a/jwks, jwks_file: jwks.json}}"
        ),
        [
            (
                "1: issuers[0].keys.jwks_uri: discovery and jwks_uri and jwks_file are both set: "
                "keep exactly one source of keys"
            )
        ],
    ),
    "a file in PEM beside another source": (
        text("{issuer: https://a/, audiences: [x], keys: {jwks_uri: https://a/jwks, pem_file: jwks.json}}"),
        ["1: issuers[0].keys.pem_file: jwks_uri and pem_file are both set: keep exactly one source of keys"],
    ),
    "a profile whose token type is not accepted": (
        text("{issuer: https://a/, audiences: [x], access_token_profile: rfc9068, token_types: [JWT]}"),
        [
            "1: issuers[0].token_types: does not contain at+jwt, which access_token_profile: rfc9068 requires: add it",
        ],
    ),
    "no source of keys": (
        text("{issuer: https://a/, audiences: [x], keys: {discovery: false}}"),
        [
            (
                "1: issuers[0].keys.discovery: false leaves no source of keys: set jwks_uri, jwks_file or pem_file, or "
                "remove this line"
            )
        ],
    ),
    "an interval outside its bounds, reported at the key in the file": (
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
GOOD |= {
    "security events with a secret": text(receiving(f"{POLLED}, {CLIENT}")),
    "security events with a private key": text(receiving(f"{POLLED}, client_id: me, private_key_file: secret")),
    "security events with a bearer token": text(receiving(f"{POLLED}, bearer_token_file: secret")),
    "security events with a bearer token, where nothing is discovered": text(
        receiving(f"{POLLED}, bearer_token_file: secret", "keys: {discovery: false, jwks_file: jwks.json}")
    ),
    "security events with the defaults written down": text(
        receiving(f"{POLLED}, bearer_token_file: secret, token_endpoint: null, scopes: []")
    ),
    "security events by discovery beside a key set": text(receiving(f"{POLLED}, {CLIENT}", KEYS)),
    "security events of an issuer that is not a URL": text(
        receiving(f"{POLLED}, {CLIENT}, token_endpoint: https://a/token", KEYS, "urn:idp")
    ),
    "security events of a template": text(
        f"{{{TEMPLATE}, name: t, {KEYS}, security_events: {{{POLLED}, {CLIENT}, token_endpoint: https://a/t}}}}"
    ),
    "a metadata address for the token endpoint": text(
        receiving(f"{POLLED}, {CLIENT}", "keys: {jwks_file: jwks.json, metadata_url: https://a/m}")
    ),
    "security events over plain http with allow_http": text(
        receiving(
            "poll_endpoint: http://a/p, audience: api, client_id: me, client_secret_file: secret, "
            "token_endpoint: http://a/t",
            "keys: {allow_http: true}",
        )
    ),
    "security events on this machine": text(
        receiving(f"poll_endpoint: 'http://[::1]:1/p', audience: api, {CLIENT}, token_endpoint: 'http://127.0.0.1/t'")
    ),
    "security events beside introspection": text(
        receiving(f"{POLLED}, {CLIENT}", f"introspection: {{{SECRET}, mode: always}}")
    ),
    "security events of two issuers, with a client each": text(
        receiving(f"{POLLED}, {CLIENT}, snapshot_file: e1.json", "name: a, keys: {snapshot_file: k1.json}")
        + ", "
        + receiving(
            f"{POLLED}, client_id: you, client_secret_file: secret, snapshot_file: e2.json",
            "name: b, keys: {snapshot_file: k2.json}",
            "https://b/",
        )
    ),
    "security events of two transmitters, for one client": text(
        receiving(f"{POLLED}, {CLIENT}")
        + ", "
        + receiving(f"poll_endpoint: https://b/poll, audience: api, {CLIENT}", issuer="https://b/")
    ),
    "security events that workers share": text(
        receiving(f"{POLLED}, {CLIENT}, snapshot_file: e.json"), more="server: {workers: 2}"
    ),
}
_EVENTS = "1: issuers[0].security_events"
WRONG |= {
    "security events without a credential": (
        text(receiving(f"{POLLED}, client_id: me")),
        [
            (
                f"{_EVENTS}: requires a credential: "
                "add exactly one of client_secret_file, private_key_file, bearer_token_file"
            )
        ],
    ),
    "security events with two credentials": (
        text(receiving(f"{POLLED}, {CLIENT}, private_key_file: secret")),
        [
            (
                f"{_EVENTS}.private_key_file: client_secret_file and private_key_file are both set: "
                "keep exactly one credential"
            )
        ],
    ),
    "security events without a client": (
        text(receiving(f"{POLLED}, private_key_file: secret")),
        [f"{_EVENTS}.client_id: is required with private_key_file: add it"],
    ),
    "a bearer token and what would request one": (
        text(receiving(f"{POLLED}, bearer_token_file: secret, client_id: me, token_endpoint: https://a/, scopes: [a]")),
        [
            (
                f"{_EVENTS}.{key}: has no effect with bearer_token_file, since no token is requested: "
                "remove one of the two"
            )
            for key in ("client_id", "token_endpoint", "scopes")
        ],
    ),
    "security events without keys": (
        text(
            receiving(
                f"{POLLED}, bearer_token_file: secret",
                f"keys: {{discovery: false}}, introspection: {{{SECRET}, endpoint: https://a/i}}",
            )
        ),
        [f"{_EVENTS}: requires the issuer's keys, which sign the events: set a source of keys, or remove this"],
    ),
    "no token endpoint": (
        text(receiving(f"{POLLED}, {CLIENT}", "keys: {discovery: false, jwks_file: jwks.json}")),
        [
            (
                f"{_EVENTS}.token_endpoint: is required if keys.discovery is false, "
                "since there is no metadata to find it in: add it"
            )
        ],
    ),
    "no token endpoint for an issuer that is not a URL": (
        text(receiving(f"{POLLED}, {CLIENT}", KEYS, "urn:idp")),
        [f"{_EVENTS}.token_endpoint: is required if the issuer is not a URL: add it"],
    ),
    "no token endpoint for a template": (
        text(f"{{{TEMPLATE}, name: t, {KEYS}, security_events: {{{POLLED}, {CLIENT}}}}}"),
        [f"{_EVENTS}.token_endpoint: is required if the issuer is a template: add it"],
    ),
    "remote security events over http": (
        text(
            receiving(
                "poll_endpoint: http://a/p, audience: api, client_id: me, client_secret_file: secret, "
                "token_endpoint: http://a/t"
            )
        ),
        [
            f"{_EVENTS}.{key}: is plain http to another host: write https, or set keys.allow_http to true"
            for key in ("token_endpoint", "poll_endpoint")
        ],
    ),
    "a metadata address that no token endpoint is found by": (
        text(
            receiving(
                f"{POLLED}, {CLIENT}, token_endpoint: https://a/t",
                "keys: {jwks_file: jwks.json, metadata_url: https://a/m}",
            )
        ),
        ["1: issuers[0].keys.metadata_url: is not used, since nothing is discovered: remove it"],
    ),
    "one file for the keys of two issuers": (
        text(
            "{issuer: https://a/, audiences: [x], keys: {snapshot_file: /tmp/s.json}}, "
            "{issuer: https://b/, audiences: [x], keys: {snapshot_file: /tmp/../tmp/s.json}}"
        ),
        ["1: issuers[1].keys.snapshot_file: is also issuers[0].keys.snapshot_file: write another file"],
    ),
    "one file for keys and events": (
        text(receiving(f"{POLLED}, {CLIENT}, snapshot_file: s.json", "keys: {snapshot_file: s.json}")),
        [f"{_EVENTS}.snapshot_file: is also issuers[0].keys.snapshot_file: write another file"],
    ),
    "one stream for two issuers": (
        text(receiving(f"{POLLED}, {CLIENT}") + ", " + receiving(f"{POLLED}, {CLIENT}", issuer="https://b/")),
        [
            (
                "1: issuers[1].security_events.poll_endpoint: issuers[0] polls the same endpoint as the same client, "
                "and would take this issuer's events: give each issuer its own client"
            )
        ],
    ),
    "workers that share no file of events": (
        text(receiving(f"{POLLED}, {CLIENT}"), more="server: {workers: 3}"),
        [
            (
                f"{_EVENTS}.snapshot_file: is required with server.workers: 3, since workers share events through it: "
                "add it"
            )
        ],
    ),
}
WRONG |= {
    "no secret": (
        introspecting("client_id: me"),
        [f"{_HERE}.auth_method: client_secret_basic requires client_secret_file: add it"],
    ),
    "no private key": (
        introspecting(PRIVATE),
        [f"{_HERE}.auth_method: private_key_jwt requires private_key_file: add it"],
    ),
    "no token": (
        introspecting("client_id: me, auth_method: bearer_token"),
        [f"{_HERE}.auth_method: bearer_token requires bearer_token_file: add it"],
    ),
    "a token for another authentication": (
        introspecting(f"{SECRET}, bearer_token_file: secret"),
        [f"{_HERE}.bearer_token_file: is not used by client_secret_basic: remove it"],
    ),
    "no client certificate": (
        introspecting("client_id: me, auth_method: tls_client_auth"),
        [f"{_HERE}.auth_method: tls_client_auth requires keys.client_certificate_file: add it"],
    ),
    "a secret and a client certificate": (
        introspecting(f"{SECRET}, auth_method: tls_client_auth", CERTIFICATE),
        [f"{_HERE}.client_secret_file: is not used by tls_client_auth: remove it"],
    ),
    "a client certificate over plain http": (
        introspecting("client_id: me, auth_method: tls_client_auth, endpoint: 'http://[::1]/x'", CERTIFICATE),
        [f"{_HERE}.endpoint: is plain http, over which tls_client_auth cannot work: write https"],
    ),
    "a secret instead of a private key": (
        introspecting(f"{PRIVATE}, client_secret_file: secret"),
        [f"{_HERE}.client_secret_file: is not used by private_key_jwt: set private_key_file instead"],
    ),
    "a private key instead of a secret": (
        introspecting("client_id: me, auth_method: client_secret_post, private_key_file: secret"),
        [f"{_HERE}.private_key_file: is not used by client_secret_post: set client_secret_file instead"],
    ),
    "a secret and a private key": (
        introspecting(f"{SECRET}, private_key_file: secret"),
        [f"{_HERE}.private_key_file: is not used by client_secret_basic: remove it"],
    ),
    "no client_id": (
        introspecting("client_secret_file: secret"),
        [f"{_HERE}.client_id: is required: add it"],
    ),
    "a remote endpoint over http": (
        introspecting(f"{SECRET}, endpoint: 'http://idp/i'"),
        [f"{_HERE}.endpoint: is plain http to another host: write https, or set keys.allow_http to true"],
    ),
    "remote metadata over http": (
        introspecting(SECRET, "keys: {jwks_file: jwks.json}", "http://idp/"),
        [
            (
                f"{_HERE}.endpoint: would be found in metadata over plain http to another host: "
                "write https, or set keys.allow_http to true"
            )
        ],
    ),
    "no endpoint": (
        introspecting(SECRET, "keys: {discovery: false, jwks_file: jwks.json}"),
        [f"{_HERE}.endpoint: is required if keys.discovery is false, since there is no metadata to find it in: add it"],
    ),
    "no endpoint and no keys": (
        introspecting(SECRET, "keys: {discovery: false}"),
        [f"{_HERE}.endpoint: is required if keys.discovery is false, since there is no metadata to find it in: add it"],
    ),
    "mode always without keys": (
        introspecting(f"{SECRET}, mode: always, endpoint: https://a/i", "keys: {discovery: false}"),
        [
            (
                f"{_HERE}.mode: always introspects verified JWTs, but there is no source of keys: "
                "set one, or write mode: opaque"
            )
        ],
    ),
}


@pytest.mark.parametrize(("config", "problems"), WRONG.values(), ids=WRONG.keys())
def test_a_contradiction_between_keys_is_refused(refuses: Refuses, config: str, problems: list[str]) -> None:
    assert refuses(config) == [f"config.yaml:{problem}" for problem in problems]


ONCE = {
    "a rule may mean an issuer whose name cannot be read": text(
        "{issuer: https://a/, name: 1, audiences: [x]}", "{name: r, require: {issuers: [b]}}"
    ),
    "a rule may mean an issuer that is not a mapping": text(
        f"{MAIN}, https://b/", "{name: r, require: {issuers: [b]}}"
    ),
    "a rule may mean issuers that are missing": "rules: [{name: r, require: {issuers: [b]}}]",
    "a rule may mean an issuer without a URL": text("{audiences: [x]}", "{name: r, require: {issuers: [b]}}"),
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
    "introspection without a client is introspection": introspecting(
        "client_secret_file: secret", "keys: {discovery: false}"
    ),
    "a rule may mean an issuer whose introspection lacks its client": text(
        "{issuer: https://a/, name: b, audiences: [x], introspection: {}}", "{name: r, require: {issuers: [b]}}"
    ),
    "a secret that cannot be read is a secret": introspecting("client_id: me, client_secret_file: gone"),
    "a way of authentication that cannot be read may need any file": introspecting(f"{SECRET}, auth_method: basic"),
    "an endpoint that cannot be read is an endpoint": introspecting(
        f"{SECRET}, endpoint: i", "keys: {discovery: false}"
    ),
    "keys that cannot be read may lead to an endpoint": introspecting(SECRET, "keys: none"),
    "metadata that are not protected are the same for keys and endpoint": introspecting(SECRET, "", "http://idp/"),
    "security events without an audience are security events": text(
        receiving("poll_endpoint: https://a/p", "keys: {jwks_file: jwks.json, metadata_url: https://a/m}")
    ),
    "a credential of events that cannot be read is a credential": text(
        receiving(f"{POLLED}, client_id: me, private_key_file: gone")
    ),
    "a bearer token that cannot be read needs no token endpoint": text(
        receiving(f"{POLLED}, bearer_token_file: gone", "keys: {discovery: false, jwks_file: jwks.json}")
    ),
    "a client that cannot be read is a client": text(receiving(f"{POLLED}, client_id: 1, client_secret_file: secret")),
    "a token endpoint that cannot be read is a token endpoint": text(
        receiving(f"{POLLED}, {CLIENT}, token_endpoint: t", "keys: {discovery: false, jwks_file: jwks.json}")
    ),
    "keys that cannot be read may allow http": text(
        receiving(f"poll_endpoint: http://a/p, audience: api, {CLIENT}", "keys: {allow_http: 1}")
    ),
    "keys that cannot be read may verify events": text(
        receiving(f"{POLLED}, {CLIENT}", f"keys: none, introspection: {{{SECRET}, endpoint: https://a/i}}")
    ),
    "a file of events that cannot be written is a file": text(
        receiving(f"{POLLED}, {CLIENT}, snapshot_file: gone/e.json"), more="server: {workers: 2}"
    ),
    "workers that cannot be read may be one": text(receiving(f"{POLLED}, {CLIENT}"), more="server: {workers: two}"),
    "introspection that cannot be read is introspection": text(
        "{issuer: https://a/, audiences: [x], introspection: yes, keys: {discovery: false}}"
    ),
    "a credential that cannot be read may be one for DPoP": text(
        rules="{name: r, require: {proof: dpop}, credential: {header: 1}}"
    ),
    "a confirmation that cannot be read may be verified": text(
        "{issuer: https://a/, audiences: [x], confirmation: none}", "{name: r, require: {proof: any}}"
    ),
    "issuers that cannot be read may be verified": text(
        f"{IGNORING}, {{issuer: https://b/, name: b, audiences: [x]}}", "{name: r, require: {proof: any, issuers: b}}"
    ),
    "a nonce that cannot be read may be required": text(more="dpop: {nonce: always, nonce_key_file: secret}"),
    "a key of nonces that cannot be read": text(more="dpop: {nonce_key_file: gone}"),
    "an address that cannot be read is not compared": text(
        more="server: {grpc_address: 127.0.0.1:9192, admin_address: 9192}"
    ),
}


@pytest.mark.parametrize("config", ONCE.values(), ids=ONCE.keys())
def test_consequences_of_a_problem_are_not_reported(refuses: Refuses, config: str) -> None:
    written = [problem for problem in refuses(config) if "rules_" not in problem]
    assert len(written) == 1


def test_a_rule_without_a_name_and_an_issuer_without_a_url_are_still_checked(refuses: Refuses) -> None:
    assert refuses(text("{keys: {discovery: false}}", "{access: optional}")) == [
        "config.yaml:1: issuers[0].issuer: is required: add it",
        (
            "config.yaml:1: issuers[0].keys.discovery: false leaves no source of keys: "
            "set jwks_uri, jwks_file or pem_file, or remove this line"
        ),
        "config.yaml:2: rules[0].name: is required: add it",
        (
            "config.yaml:2: rules[0].require.audiences: the rule accepts tokens of an issuer, which has no audiences: "
            "add them here or to issuers[0]"
        ),
    ]


def test_two_unreadable_sources_of_keys_still_count_as_two(refuses: Refuses) -> None:
    found = refuses(text("{issuer: https://a/, audiences: [x], keys: {jwks_uri: a, jwks_file: gone.json}}"))
    assert found[-1] == (
        "config.yaml:1: issuers[0].keys.jwks_file: jwks_uri and jwks_file are both set: keep exactly one source of keys"
    )
