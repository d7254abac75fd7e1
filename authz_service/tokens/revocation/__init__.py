"""Revoked tokens: refused although they have not expired.

``revocations`` finds what revokes a token, ``file`` reads the operator's list, ``event_token`` verifies a security event
token, and ``events`` makes revocations of its events.
"""
