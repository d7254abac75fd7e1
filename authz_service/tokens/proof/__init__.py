"""Proof that whoever sends a token is the client that the token was issued to (RFC 9449, RFC 8705).

``replay`` records the DPoP proofs that were accepted, and ``nonce`` issues and verifies nonces for them. ``certificate``
finds the digest of the client certificate, which ``xfcc`` takes from the header of a proxy in front.
"""
