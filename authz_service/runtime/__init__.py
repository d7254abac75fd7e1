"""The running service.

``application`` is the composition root: it starts, drains and closes one process. ``preflight`` reads and checks the
configuration, ``issuer_pool`` provides its issuers, ``assembly`` builds the deciding parts, ``reload`` applies changes.
``supervisor`` runs several worker processes, over ``worker_channel``; ``background_tasks`` run beside the decisions.
"""
