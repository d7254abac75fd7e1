"""Rules: which one decides a request, and whether a token's claims meet it."""
