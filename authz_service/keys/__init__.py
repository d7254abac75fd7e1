"""The issuers' published keys.

``keyset`` parses a key set (``jwk`` one key of it, ``pem`` a file in PEM) and selects keys; ``signatures`` lists what
they verify, and ``trials`` finds the right one where no key id selects it. ``source`` is the interface for fetching
one; ``http_source`` and ``file_source`` implement it. ``cache`` keeps the keys fresh: ``schedule`` holds when the next
fetch is due, ``absent_kids`` keeps unknown key ids from causing fetches, and ``snapshot`` preserves the keys across
restarts.
"""
