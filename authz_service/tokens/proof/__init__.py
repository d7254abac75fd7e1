"""Proof that the sender of a token is the client that it was issued to (RFC 9449, RFC 8705).

``verifier`` has the order of the steps. ``dpop`` verifies one DPoP proof, and ``target`` compares its URL; ``replay``
records the proofs that were accepted, and ``nonce`` issues and verifies nonces for them, with the key of ``nonce_key``.
``certificate`` finds the digest of the client certificate, which ``xfcc`` takes from the header of a proxy in front.
"""
