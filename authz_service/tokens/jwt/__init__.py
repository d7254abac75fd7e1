"""Signed tokens: parsed, verified, validated, and remembered.

``jws`` parses the compact serialization, ``claims`` validates a verified token's claims, ``token_kind`` tells access
tokens from the others that an issuer signs, and ``cache`` remembers validated tokens.
"""
