"""What the page of the configuration says before its keys, and before those of some sections."""

from __future__ import annotations

from typing import Final

HEAD: Final = """\
# Configuration

The configuration is one YAML file. This page lists every key with its type, its default and an example. It is generated
from the program, so it is complete.

A small configuration needs an issuer and a rule:

```yaml title="config.yaml"
issuers:
  - issuer: https://idp.example.com/
    audiences: [https://api.example.com/]
rules:
  - name: read-appointments
    match: {methods: [GET], paths: ["/v1/appointments", "/v1/appointments/{id}"]}
    require: {scopes: [read:appointments]}
```

[`authz-service check-config`](commands.md#check-config) validates a file and reports every problem with its line. A
running instance reloads a changed file by itself: see [Change the configuration](../how-to/change-configuration.md).

## How values are written

| value | how it is written |
|---|---|
| duration | a number and `ms`, `s`, `m` or `h`: `250ms`, `30s`, `5m`, `1h` |
| size | a whole number and `B`, `KiB`, `MiB` or `GiB`: `512B`, `16KiB`, `1MiB` |
| path of a file | absolute, or relative to the folder of the configuration file |
| claim path | the names that lead to a claim, joined by dots: `realm_access.roles`. A dot in a name is written `\\.`: `'https://example\\.com/role'` |
| host pattern | a host without port, in any case; `*.example.org` is any name below `example.org` |
| path pattern | segments: a literal, `{name}` for any one segment, `{name}:verb` for one that ends in `:verb`, and a final `/**` for all further ones |

- Unknown keys, duplicate keys and values of another type are errors. Nothing is converted: `"5"` is not a number, and `5`
  is not a duration.
- A key that may be left out may not be left empty. Leave it out, or write `null` where that is its default.
- Names in brackets stand for a list: `issuers[].issuer` is the key `issuer` of each item in `issuers`. A `*` stands for a
  name of yours.
- In an editor, the [JSON Schema](commands.md#schema) completes keys, and shows these descriptions.

## All sections

"""

INTRODUCTIONS: Final[dict[str, str]] = {
    "server": """
[Several cores](../how-to/several-cores.md) explains `workers`, and [Memory and limits](../understand/memory.md) the two
transports. Changes of `grpc_address`, `admin_address`, `transport`, `workers` and the names of the TLS files need a restart.
""",
    "server.tls": """
A unix socket in a shared folder needs no TLS. [Envoy in production](../how-to/envoy.md) shows both.
""",
    "issuers": """
[Providers](../how-to/providers/index.md) has the settings for each provider, and `authz-service init` writes them for yours.
For more than one issuer, see [Several providers](../how-to/several-providers.md), and [Many tenants](../how-to/tenants.md).
""",
    "issuers[].keys": """
Most issuers need none of these keys: discovery finds their key set. Set at most one of `jwks_uri`, `jwks_file` and
`pem_file`. [Keys and outages](../understand/keys-and-outages.md) explains when keys are fetched and how long they are used.
""",
    "issuers[].introspection": """
[Opaque tokens](../how-to/introspection.md) shows how to set this up, and
[Opaque tokens explained](../understand/opaque-tokens.md) what happens when the server is slow or unreachable.
""",
    "issuers[].security_events": """
[Receive security events](../how-to/security-events.md) shows how to set them up, and [Security events](security-events.md)
which providers send them and what they revoke.
""",
    "rules": """
[Write rules](../how-to/write-rules.md) has patterns for common tasks, and [How rules are evaluated](rules.md) the exact
meaning of each part. [How a request is decided](../understand/decision.md) explains the steps around them.
""",
    "rules[].match": """
All parts must match. A part that is left out matches every request.
""",
    "rules[].match.mcp": """
Set `methods`, `names`, or both. [A scope for each tool](../how-to/mcp-tools.md) explains such rules, and what they do not protect
against.
""",
    "rules[].require": """
All parts must hold. They are evaluated [in a fixed order](rules.md#the-order-of-evaluation), and the first that fails is the
[reason](reasons.md) of the denial.
""",
    "rules[].require.claims": """
Set exactly one operator for each claim. Values are compared as JSON: `"1"` is not `1`.
[How rules are evaluated](rules.md#claims) explains how lists, headers and captures are compared.
""",
    "rules[].credential": """
See [Tokens in other headers](../how-to/token-header.md).
""",
    "cors_preflight": """
See [CORS](../how-to/cors.md).
""",
    "upstream.headers": """
See [Identity headers](../how-to/identity-headers.md).
""",
    "scope_implies": """
See [Write rules](../how-to/write-rules.md).
""",
    "dpop": """
See [DPoP](../how-to/dpop.md).
""",
    "mtls": """
See [Mutual TLS](../how-to/mutual-tls.md).
""",
    "resources": """
See [the metadata of protected resources](../how-to/protected-resources.md), and [Protect an MCP server](../start/mcp.md).
""",
    "revocations_file": """
See [Revocation](../how-to/revocation.md), which has an example of the file.
""",
    "token_cache": """
See [Memory and limits](../understand/memory.md).
""",
    "logging": """
See [Logs](logs.md), and [Audit log](../how-to/audit-log.md) for a destination of its own.
""",
    "tracing": """
See [Traces](../how-to/traces.md).
""",
}
