"""From a credential to validated claims.

``validator`` has the order of the steps, and ``attempt`` what each attempt may fetch. ``jwt`` validates signed tokens,
``introspection`` validates opaque ones, and signed ones that an issuer can revoke. ``proof`` verifies that the sender
of a bound token may use it, and ``revocation`` finds revoked tokens.
"""
