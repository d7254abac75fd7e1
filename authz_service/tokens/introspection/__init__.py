"""Tokens that are validated by introspection (RFC 7662).

``query`` selects the servers and combines their results. For one server, ``introspector`` sends each request once and
within bounds, ``breaker`` and ``limiter`` keep an unavailable server from delaying callers, ``outage_log`` logs that,
``response`` validates a response, and ``cache`` holds validated ones. ``client`` is what a client provides, and
``http_client`` is the real one, and ``signed_response`` verifies signed responses.
"""
