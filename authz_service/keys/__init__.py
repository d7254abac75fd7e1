"""The issuers' published keys: fetched ahead of need, kept through failures, found without waiting.

``keyset`` parses and selects (pure), ``source`` says where a key set comes from, ``http_source`` and ``file_source``
get it, ``cache`` keeps it. ``discovery`` finds addresses in an issuer's metadata, for introspection too.
"""
