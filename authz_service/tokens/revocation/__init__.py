"""Revoked tokens: refused although they have not expired.

``revocations`` finds what revokes a token, and ``file`` reads the operator's list.

``receiver`` receives security events, and ``receiver_log`` logs what it does: ``poll_client`` fetches security event
tokens, ``event_batch`` verifies them one by one with ``event_token``, ``events`` makes revocations of their events,
``event_store`` keeps those for as long as they are needed, and ``event_file`` saves them and shares them with other
processes.
"""
