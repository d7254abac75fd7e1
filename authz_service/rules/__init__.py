"""Rules: which one decides a request, and whether a token's claims meet it.

``policy`` compiles the settings. ``matcher`` finds the rule of a request, ``encoded_slashes`` that of a path with two
readings, and ``mismatch`` explains why a rule does not match. ``conditions`` are evaluated with the claims;
``operators`` compare one claim. ``resources`` answers requests for the metadata of protected resources.
"""
