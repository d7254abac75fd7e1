"""Files load, or are refused with everything that is wrong with them."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from authz_service.config import document
from authz_service.config.load import load
from authz_service.config.model import DpopSettings, IntrospectionSettings, SecurityEventsSettings
from authz_service.core import ml_dsa
from authz_service.core.errors import ConfigError
from config.conftest import PARSERS

if TYPE_CHECKING:
    from config.conftest import Loads, Refuses

MINIMAL = """\
issuers:
  - {issuer: https://idp.example.com/, name: main, audiences: [https://api.example.com/]}
rules:
  - {name: everything}
"""

EXAMPLES = Path(__file__).parent / "examples"
COMPLETE = (EXAMPLES / "complete.yaml").read_text()
INTROSPECTION = (EXAMPLES / "introspection.yaml").read_text()
SECURITY_EVENTS = (EXAMPLES / "security_events.yaml").read_text()
RULES = (EXAMPLES / "rules.yaml").read_text()
MANY_MISTAKES = (EXAMPLES / "many_mistakes.yaml").read_text()

NO_MAPPING = "must be a mapping, lines of the form `key: value`"
HS256 = (
    "since only asymmetric signatures are: write RS, PS or ES with 256, 384 or 512, EdDSA, Ed25519, Ed448, or "
    "ML-DSA-44, -65 or -87"
)


def test_a_file_with_many_mistakes_is_refused_with_all_of_them_sorted_by_line(refuses: Refuses) -> None:
    assert refuses(MANY_MISTAKES) == (EXAMPLES / "many_mistakes.problems").read_text().splitlines()


def test_the_documented_defaults_are_the_defaults(loads: Loads) -> None:
    with_section = loads(MINIMAL).with_values(dpop=DpopSettings())  # without it, its defaults apply as well
    assert loads(COMPLETE) == with_section


def test_the_complete_example_has_every_key_or_a_reason_to_omit_it(loads: Loads) -> None:
    written = loads(COMPLETE)
    sections = {
        "server": (written.server, {"tls"}),
        "issuer": (written.issuers[0], {"introspection", "security_events"}),
        "keys": (written.issuers[0].keys, {"jwks_uri", "jwks_file", "pem_file", "snapshot_file"}),
        "rule": (written.rules[0], {"policy"}),
        "upstream": (written.upstream, set()),
        "dpop": (written.dpop_or_default, set()),
        "mtls": (written.mtls, set()),
        "token_cache": (written.token_cache, set()),
        "logging": (written.logging, {"decisions_file", "decisions_socket"}),
        "settings": (written, {"revocations_file", "tracing"}),
    }
    for section, left_out in sections.values():
        expected = type(section).declared.keys() - left_out
        assert section.written == expected, "write it in complete.yaml, or leave it out in this test"


def test_the_documented_defaults_of_introspection_are_the_defaults(loads: Loads) -> None:
    def read(text: str) -> IntrospectionSettings:
        introspection = loads(text).issuers[0].introspection
        assert introspection is not None
        return introspection

    written = read(INTROSPECTION)
    brief = MINIMAL.replace("]}", "], introspection: {client_id: my-api, client_secret_file: secret}}")
    assert written == read(brief)
    assert written.written == IntrospectionSettings.declared.keys() - {
        "private_key_file",
        "bearer_token_file",
    }


def test_the_documented_defaults_of_security_events_are_the_defaults(loads: Loads) -> None:
    def read(text: str) -> SecurityEventsSettings:
        events = loads(text).issuers[0].security_events
        assert events is not None
        return events

    written = read(SECURITY_EVENTS)
    brief = (
        "{poll_endpoint: https://idp.example.com/ssf/poll, audience: https://api.example.com/, client_id: authz, "
        "client_secret_file: secret}"
    )
    assert written == read(MINIMAL.replace("]}", f"], security_events: {brief}}}"))
    left_out = {"private_key_file", "bearer_token_file", "snapshot_file"}
    assert written.written == SecurityEventsSettings.declared.keys() - left_out


def test_rules_load_as_written(loads: Loads) -> None:
    read, health = loads(RULES).rules
    assert tuple(map(str, read.match.hosts or ())) == ("api.example.com", "*.example.org")
    assert read.match.methods == ("GET", "HEAD")
    assert tuple(map(str, read.match.paths or ())) == ("/v1/appointments", "/v1/appointments/{id}", "/v1/files/**")
    assert read.require.issuers == ("main",)
    assert read.require.audiences == ("https://api.example.com/",)
    assert read.require.scopes.all == ("read:appointments",)
    assert read.require.clients == ("mobile-app",)
    assert (health.name, health.access) == ("health", "public")


def test_files_are_relative_to_the_configuration_file(loads: Loads, tmp_path: Path) -> None:
    text = MINIMAL.replace("]}", "], keys: {jwks_file: jwks.json, ca_file: ca.crt}}")
    loaded = loads(
        "server: {grpc_address: unix:run.sock, tls: "
        "{certificate_file: tls.crt, key_file: ./tls.key, client_ca_file: ca.crt}}\n" + text
    )
    assert loaded.server.grpc_address == f"unix:{tmp_path / 'run.sock'}"
    assert loaded.server.tls is not None
    assert loaded.server.tls.certificate_file == tmp_path / "tls.crt"
    assert loaded.server.tls.key_file == tmp_path / "tls.key"
    assert loaded.server.tls.client_ca_file == tmp_path / "ca.crt"
    assert loaded.issuers[0].keys.jwks_file == tmp_path / "jwks.json"
    assert loaded.issuers[0].keys.ca_file == tmp_path / "ca.crt"


def test_a_relative_configuration_path_gives_relative_file_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jwks.json").touch()
    (tmp_path / "config.yaml").write_text(MINIMAL.replace("]}", "], keys: {jwks_file: jwks.json}}"))
    monkeypatch.chdir(tmp_path)
    assert load(Path("config.yaml")).issuers[0].keys.jwks_file == Path("jwks.json")


def test_a_symlink_to_a_file_is_accepted_and_not_resolved(loads: Loads, tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to("jwks.json")
    loaded = loads(MINIMAL.replace("]}", "], keys: {jwks_file: link.json}}"))
    assert loaded.issuers[0].keys.jwks_file == tmp_path / "link.json"


@pytest.mark.parametrize(
    ("jwks_file", "problem"),
    [
        ("gone.json", "'gone.json' cannot be read: No such file or directory"),
        ("jwks.json/x", "'jwks.json/x' cannot be read: Not a directory"),
        (".", "'FOLDER' cannot be read: Is a directory"),
        ("/dev/null", "'/dev/null' cannot be read: not a regular file"),
        ('""', "must be the path of a file"),
        ('"a\\0b"', "must be the path of a file"),
        ("12", "must be the path of a file"),
    ],
)
def test_a_named_file_must_be_a_readable_regular_file(
    refuses: Refuses, tmp_path: Path, jwks_file: str, problem: str
) -> None:
    found = refuses(MINIMAL.replace("]}", f"], keys: {{jwks_file: {jwks_file}}}}}"))
    expected = problem.replace("FOLDER", str(tmp_path))
    assert found == [f"config.yaml:2: issuers[0].keys.jwks_file: {expected}"]


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("gone/s.json", "the file's folder 'gone' does not exist: create it first"),
        ("secret/s.json", "the file's folder 'secret' does not exist: create it first"),
        ("folder", "'folder' exists and is not a regular file: write the path of a file"),
        ("pipe", "'pipe' exists and is not a regular file: write the path of a file"),
    ],
)
@pytest.mark.parametrize("key", ["keys", "security_events"])
def test_a_snapshot_file_needs_an_existing_folder_and_replaces_only_a_file(
    refuses: Refuses, tmp_path: Path, key: str, file: str, problem: str
) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    client = "poll_endpoint: https://a/, audience: a, client_id: me, client_secret_file: secret, "
    found = refuses(
        MINIMAL.replace("]}", f"], {key}: {{{client if key == 'security_events' else ''}snapshot_file: {file}}}}}")
    )
    assert found == [f"config.yaml:2: issuers[0].{key}.snapshot_file: {problem}"]


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("unix:gone/run.sock", "the socket's folder 'gone' does not exist: create it first"),
        ("unix:" + "x" * 108, "the socket's path is longer than 107 bytes: choose a shorter one"),
        ('"unix:"', "must name a path: write unix:/path/to.sock"),
        ('"unix:a\\0b"', "must name a path: write unix:/path/to.sock"),
    ],
)
def test_a_socket_needs_an_existing_folder_and_a_short_path(refuses: Refuses, address: str, problem: str) -> None:
    found = refuses(f"server: {{grpc_address: {address}}}\n{MINIMAL}")
    assert found == [f"config.yaml:1: server.grpc_address: {problem}"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1: is empty: it needs at least issuers and rules"),
        ("# nothing\n", "1: is empty: it needs at least issuers and rules"),
        ("---", "1: is empty: it needs at least issuers and rules"),
        ("# a: 1\n---\n\n", "1: is empty: it needs at least issuers and rules"),
        ("\n- a\n", "2: must be a mapping: lines of the form `key: value`"),
        ("just a string", "1: must be a mapping: lines of the form `key: value`"),
        ("a: 1\n---\nb: 2\n", "2: a second document begins here: write one, without another ---"),
        (b"a: 1\nb: \xff\n", "2: is not UTF-8: save the file in this encoding"),
        ("a: 1\nb: 2".encode("utf-16-le"), "1: contains the control character U+0000: remove it"),
        ("a: 1\nb: \x07\n", "2: contains the control character U+0007: remove it"),
        (b"#" * (1 << 20) + b"#", "1: is larger than 1 MiB, the maximum size of a configuration"),
        ("a: [" * 40, "1: is nested deeper than 32 levels"),
        ("[" * 500_000, "1: is nested deeper than 32 levels"),
        ("a: &a [*a]", "1: the alias *a has no complete anchor above it"),
        ("a: *nowhere", "1: the alias *nowhere has no complete anchor above it"),
        ("a: 1\nb: {<<: 1}", "2: << merges mappings only: write <<: *anchor"),
        (
            "hosts:\n  - *.example.org",
            "2: is not YAML: * begins an alias: put a string that begins with * in quotes",
        ),
    ],
)
@pytest.mark.parametrize("parser", PARSERS)
def test_an_unreadable_file_is_refused_with_the_reason_and_the_line(
    refuses: Refuses, monkeypatch: pytest.MonkeyPatch, parser: str, text: str | bytes, problem: str
) -> None:
    monkeypatch.setattr(document, "_PARSER", PARSERS[parser])
    assert refuses(text) == [f"config.yaml:{problem}"]


def test_the_number_of_values_behind_aliases_is_bounded(refuses: Refuses) -> None:
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20))
    merges = "a0: &a0 {k0: x}\n" + "".join(f"a{n}: &a{n} {{<<: *a{n - 1}, k{n}: x}}\n" for n in range(1, 20_000))
    for text in (laughs, merges):
        (problem,) = refuses(text)
        assert "has more than 100000 values once its aliases are followed: write fewer" in problem


def test_anchors_aliases_and_merge_keys_are_followed_and_own_keys_win(loads: Loads) -> None:
    loaded = loads("""
issuers:
  - &first
    issuer: https://a.example.com/
    audiences: &audiences [api]
    keys: &keys {timeout: 3s, max_keys: 7}
  - <<: [{leeway: 1s}, *first]
    issuer: https://b.example.com/
    keys: {<<: *keys, max_keys: 8}
rules:
  - {name: all, require: {audiences: *audiences}}
""")
    one, other = loaded.issuers
    assert (other.issuer, other.audiences, other.leeway) == ("https://b.example.com/", ("api",), 1.0)
    assert (one.keys.timeout, one.keys.max_keys, other.keys.timeout, other.keys.max_keys) == (3.0, 7, 3.0, 8)
    assert loaded.rules[0].require.audiences == ("api",)


def test_a_quoted_merge_key_is_an_ordinary_unknown_key(refuses: Refuses) -> None:
    (problem,) = refuses(MINIMAL + "logging: {'<<': {level: info}}\n")
    names = "level, format, decisions, decisions_file, decisions_socket"
    assert problem == f"config.yaml:5: logging['<<']: is not a key here: write one of {names}"


@pytest.mark.parametrize(
    ("written", "text"),
    [("2024-01-01", "2024-01-01"), ("=", "="), ("'no'", "no"), ('"1.5"', "1.5"), ("1e3", "1e3"), ("!!str 12", "12")],
)
def test_dates_and_a_lone_equals_sign_remain_strings(loads: Loads, written: str, text: str) -> None:
    loaded = loads(MINIMAL.replace("[https://api.example.com/]", f"[{written}]"))
    assert loaded.issuers[0].audiences == (text,)


NOT_ALIKE = "is a number that YAML versions read differently: write it in decimal, or in quotes"


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("no", 'must be a string, not no (read as false): write it in quotes, "no"'),
        ("ON", 'must be a string, not ON (read as true): write it in quotes, "ON"'),
        ("12", 'must be a string, not the number 12: write it in quotes, "12"'),
        ("1.50", 'must be a string, not the number 1.5: write it in quotes, "1.50"'),
        ("~", "is empty: write a value, or remove it"),
        ("[]", "must be a string, not a list"),
        ("{a: b}", "must be a string, not a mapping"),
        ("010", NOT_ALIKE),
        ("0x1F", NOT_ALIKE),
        ("1_000", NOT_ALIKE),
        ("12:30:45", NOT_ALIKE),
        (".inf", NOT_ALIKE),
        ("9" * 101, NOT_ALIKE),
        ("!secret x", "has the tag '!secret', which has no meaning here: remove it"),
        ("!!binary eA==", "has the tag 'tag:yaml.org,2002:binary', which has no meaning here: remove it"),
    ],
)
def test_a_value_of_another_type_is_never_converted_to_a_string(refuses: Refuses, written: str, problem: str) -> None:
    found = refuses(MINIMAL.replace("[https://api.example.com/]", f"[{written}]"))
    assert found == [f"config.yaml:2: issuers[0].audiences[0]: {problem}"]


@pytest.mark.parametrize(
    ("key", "name"), [("1", "1"), ("no", "no"), ("~", "['~']"), ("[a]", "['?']"), ("{a: b}", "['?']")]
)
def test_a_key_must_be_a_string(refuses: Refuses, key: str, name: str) -> None:
    found = refuses(f"{MINIMAL}upstream:\n  headers:\n    ? {key}\n    : sub\n")
    place = f"upstream.headers{name if name.startswith('[') else '.' + name}"
    assert found == [f"config.yaml:7: {place}: the key must be a string: write it in quotes"]


def test_a_header_that_is_named_twice_is_reported_instead_of_losing_its_first_condition(refuses: Refuses) -> None:
    text = MINIMAL.replace("everything", "everything, match: {headers: {X-A: '1', x-a: '2'}}")
    text = text.replace("name: main", "name: main, keys: {headers: {X-B: a, x-b: b}}")
    assert refuses(text) == [
        "config.yaml:2: issuers[0].keys.headers.x-b: is the same name as 'X-B', since case does not count: remove one",
        "config.yaml:4: rules[0].match.headers.x-a: is the same name as 'X-A', since case does not count: remove one",
    ]


@pytest.mark.parametrize(
    ("section", "text", "problem"),
    [
        ("server", "", "server: is empty: write a value, or remove it"),
        ("server", "[]", f"server: {NO_MAPPING}, not a list"),
        ("server", "{workers: 257}", "server.workers: must be at most 256"),
        ("server", "{tls: }", "server.tls: is empty: write a value, or remove it"),
        ("upstream", "{headers: [a]}", f"upstream.headers: {NO_MAPPING}, not a list"),
        ("upstream", '{forward_authorization: "true"}', ("upstream.forward_authorization: must be true or false, "
         "not the string 'true': write it without quotes")),
        ("upstream", "{forward_authorization: 1}", ("upstream.forward_authorization: must be true or false, "
         "not the number 1")),
        ("token_cache", "{max_entries: 1.5}", "token_cache.max_entries: must be a whole number, not the number 1.5"),
        ("token_cache", "{max_entries: -1}", "token_cache.max_entries: must be at least 0"),
        ("token_cache", "{max_entries: on}", "token_cache.max_entries: must be a whole number, not on (read as true)"),
        ("logging", "{decisions: no}", ("logging.decisions: no (read as false) is not accepted: "
         "write 'none', 'denied' or 'all'")),
        ("logging", "{decisions: }", "logging.decisions: is empty: write a value, or remove it"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_reported_with_the_remedy(
    refuses: Refuses, section: str, text: str, problem: str
) -> None:
    assert refuses(f"{MINIMAL}{section}: {text}\n") == [f"config.yaml:5: {problem}"]


@pytest.mark.parametrize(
    "later",
    ["policies: {}", "issuers_: []", "'a b': 1", '"x\\ny": 1', "? " + "k" * 200 + "\n: 1"],
)
def test_an_unknown_key_is_refused_on_one_line(refuses: Refuses, later: str) -> None:
    (problem,) = refuses(f"{MINIMAL}{later}\n")
    assert re.fullmatch(r"config\.yaml:5: .+: is not a key here: (did you mean|write one of) .+", problem)


def test_missing_sections_are_reported_on_the_first_line(refuses: Refuses) -> None:
    assert refuses("logging: {}") == [
        "config.yaml:1: issuers: is required: add it",
        "config.yaml:1: rules: is required: add it",
    ]
    assert refuses("issuers: []\nrules: []") == [
        "config.yaml:1: issuers: is empty: give at least one",
        "config.yaml:2: rules: is empty: give at least one",
    ]


def test_a_list_with_only_wrong_items_is_not_also_reported_as_empty(refuses: Refuses) -> None:
    (problem,) = refuses(MINIMAL.replace("audiences", "algorithms: [none], audiences"))
    assert problem == f"config.yaml:2: issuers[0].algorithms[0]: 'none' is not accepted, {HS256}"


def test_an_unknown_algorithm_is_refused_with_the_accepted_ones(refuses: Refuses) -> None:
    (problem,) = refuses(MINIMAL.replace("audiences", "algorithms: [RS1], audiences"))
    choices = (
        "'RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA', 'Ed25519', 'Ed448', "
        "'ML-DSA-44', 'ML-DSA-65' or 'ML-DSA-87'"
    )
    assert problem == f"config.yaml:2: issuers[0].algorithms[0]: 'RS1' is not accepted: write {choices}"


def test_an_algorithm_that_the_installed_libraries_lack_is_refused_with_the_remedy(
    refuses: Refuses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ml_dsa, "supported", dict)
    (problem,) = refuses(MINIMAL.replace("audiences", "algorithms: [ES256, ML-DSA-65], audiences"))
    assert problem.startswith(
        "config.yaml:2: issuers[0].algorithms[1]: 'ML-DSA-65' is not supported by the installed cryptography package"
    )


def test_a_problem_of_a_plain_list_of_scopes_points_into_that_list(refuses: Refuses) -> None:
    (problem,) = refuses(MINIMAL.replace("everything", 'a, require: {scopes: [b, "c d"]}'))
    assert problem.startswith("config.yaml:4: rules[0].require.scopes[1]: 'c d' is not a scope")


def test_a_password_in_a_url_is_not_repeated(refuses: Refuses) -> None:
    (problem,) = refuses(MINIMAL.replace("https://idp", "https://me:hunter2@idp"))
    assert problem == "config.yaml:2: issuers[0].issuer: must be a URL without user and password"


@pytest.mark.parametrize(
    "rule",
    [
        "match: {hosts: [LONG/]}",
        "match: {paths: [LONG]}",
        "match: {paths: [/LONG]}",
        "match: {paths: ['/LONG*']}",
        "match: {paths: ['/LONG?']}",
        "match: {methods: [LONG]}",
        "require: {claims: {LONG..a: b}}",
        "require: {scopes: ['LONG{x}']}",
        "access: LONG",
        "LONG: a",
    ],
)
def test_a_long_value_is_shortened(rule: str, refuses: Refuses) -> None:
    long = rule.replace("LONG", "x" * 9000)
    (problem,) = refuses(MINIMAL.replace("everything", f"everything, {long}"))
    assert len(problem) < 400


def test_a_missing_file_is_one_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        load(tmp_path / "gone.yaml")
    assert refusal.value.problems == (f"{tmp_path / 'gone.yaml'}:1: cannot be read: No such file or directory",)
    with pytest.raises(ConfigError) as refusal:
        load(tmp_path)
    assert refusal.value.problems == (f"{tmp_path}:1: cannot be read: Is a directory",)


@pytest.mark.parametrize(
    "text", [COMPLETE, MINIMAL, MANY_MISTAKES, "a: &a {b: [1, no, *x]}", "a: &a {b: 1}\nc: {<<: *a}"]
)
def test_pure_pyyaml_and_libyaml_read_the_same(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def read() -> Any:
        try:
            parsed = document.parse(text.encode())
        except document.Unreadable as unreadable:
            return unreadable.problem
        return parsed.value, parsed.problems, parsed._nodes

    monkeypatch.setattr(document, "_PARSER", PARSERS["libyaml"])
    fast = read()
    monkeypatch.setattr(document, "_PARSER", PARSERS["PyYAML"])
    assert read() == fast


def loads_or_says_why(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        file.write_bytes(data)
        problems = _problems(file)
        assert problems is None or problems
        for problem in problems or ():
            assert re.fullmatch(rf"{re.escape(str(file))}:[1-9][0-9]*: [^\n]+", problem)
            assert "authz-service schema" not in problem, "a finding that has no text of its own"


def _problems(file: Path) -> tuple[str, ...] | None:
    try:
        load(file)
    except ConfigError as refusal:
        return refusal.problems
    return None


@given(st.binary(max_size=200))
@example(b"\xef\xbb\xbf")
@example(b"\x00")
@settings(deadline=None)
def test_arbitrary_bytes_load_or_are_refused_with_lines(data: bytes) -> None:
    loads_or_says_why(data)


@given(st.text(alphabet=st.sampled_from("ab:-?[]{}&*!|>'\"%@`#, \n\t~<01.\\xéu\u2028"), max_size=60))
@settings(deadline=None, max_examples=300)
def test_arbitrary_yaml_text_loads_or_is_refused_with_lines(text: str) -> None:
    loads_or_says_why(text.encode())


LINES = COMPLETE.splitlines() + MANY_MISTAKES.splitlines() + RULES.splitlines()
KEYS = sorted(set(re.findall(r"[a-z_]+(?=:)", "\n".join(LINES))))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["main", "1s", "/a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["server", "issuers", "rules", "upstream", "logging"]), JSON, min_size=1))
@settings(deadline=None)
def test_arbitrary_values_under_known_keys_load_or_are_refused_with_lines(value: dict[str, Any]) -> None:
    loads_or_says_why(yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "replace"))


@given(st.lists(st.sampled_from(LINES), max_size=6), st.data())
@settings(deadline=None)
def test_a_complete_file_with_lines_exchanged_loads_or_is_refused_with_lines(
    others: list[str], data: st.DataObject
) -> None:
    lines = COMPLETE.splitlines()
    for other in others:
        lines[data.draw(st.integers(0, len(lines) - 1))] = other
    loads_or_says_why("\n".join(lines).encode())
