"""Tokens whose issuer is asked about them (RFC 7662).

``opaque`` says which issuers to ask and what follows from their responses, ``introspector`` sends each question once
and within bounds, ``client`` speaks HTTP, ``response`` validates what was answered, ``cache`` remembers it, ``breaker``
and ``limiter`` keep an unavailable server from costing callers anything.
"""
