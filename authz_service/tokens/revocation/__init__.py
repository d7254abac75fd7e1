"""Revoked tokens: refused although they have not expired.

``revocations`` finds what revokes a token, and ``file`` reads the operator's list.
"""
