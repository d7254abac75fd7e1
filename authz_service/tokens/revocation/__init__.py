"""Revoked tokens: refused although they have not expired.

``revocations`` finds what revokes a token, and ``file`` reads the operator's list. ``poll_client`` fetches security
event tokens, ``event_token`` verifies one, ``events`` makes revocations of its events, and ``event_store`` keeps them
for as long as they are needed.
"""
