"""The running service.

``start`` reads the configuration and decides which process this becomes. ``application`` is the composition root: it
starts, drains and closes one sidecar. ``preflight`` reads and checks the configuration (and finds its warnings, with
``certificate_warnings``), ``issuer_pool`` provides its issuers, ``assembly`` builds the deciding parts, ``reload``
applies changes (``revocation_file`` those of the revocations), ``background_tasks`` run beside the decisions, and
``tracing`` exports spans.

``supervisor`` is a program of its own that runs several worker processes, each through a ``worker_process``, whose
other end is a ``worker_channel``; its signals and calls are handled in the ``main_thread``. ``handover`` has what these
programs pass to each other, and ``listening`` logs their addresses.
"""
