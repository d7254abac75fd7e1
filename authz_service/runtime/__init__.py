"""The running service.

``assembly`` makes of settings what decides by them, ``application`` starts, drains and closes it, ``reload`` applies a
changed configuration, ``supervisor`` runs several worker processes, and ``worker_channel`` connects it with them.
"""
