"""A credential becomes validated claims.

``jws`` takes a token apart, ``claims`` validates what it says, ``id_token`` tells access tokens from the others,
``validator`` verifies the signature and puts the steps in order, ``cache`` remembers what was validated.

``opaque`` says whom to ask about a token that says nothing by itself. ``introspector`` asks, ``introspection`` judges
what is said, ``introspection_cache`` remembers it, ``breaker`` leaves a server alone that fails;
``introspection_client`` and ``client_authentication`` are the HTTP of it.
"""
