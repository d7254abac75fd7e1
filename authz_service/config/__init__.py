"""Turns one YAML file into frozen settings, in three stages: parse, validate, freeze.

``load`` runs the stages: ``document`` parses YAML (``layout`` and ``syntax`` find mistakes), ``model`` has every key
and its default, ``values`` and ``units`` the types of single values, ``consistency`` and ``issuer_consistency`` the
checks between keys of a ``draft``, and ``messages`` the problems in our words (with ``key_hints``, over the model's
``declarations``). ``warnings``, ``resource_warnings`` and
``rule_order`` (with ``strictness``) look for dangerous settings that are valid. ``resources`` locates protected
resources, ``files`` reads what the configuration names, and ``schema`` is the JSON Schema.

Reports every problem at once, each with its line and what would be right. Opens no sockets; checks that the files that
a configuration names can be read.
"""
