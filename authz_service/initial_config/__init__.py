"""``authz-service init``: a first configuration for an issuer.

``command`` is the command, ``published`` reads what the issuer publishes about itself, and ``text`` makes a commented
configuration file of it.
"""
