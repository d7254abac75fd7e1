"""The issuers' published keys.

``keyset`` parses a key set and selects a key. ``source`` is the interface for fetching one; ``http_source`` and
``file_source`` implement it. ``cache`` refreshes the keys in the background, ``absent_kids`` keeps unknown key ids from
causing fetches, and ``snapshot`` preserves the keys across restarts.
"""
