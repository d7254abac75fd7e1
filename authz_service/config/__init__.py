"""Turns one YAML file into frozen settings, in three stages: parse, validate, freeze.

``load`` runs the stages: ``document`` parses YAML (``layout`` and ``syntax`` find mistakes), ``model`` has every key
and its default (declared as ``sections`` describes; ``server`` has the section of that name, which ``server_section``
reads alone), ``values``, ``places`` and ``units`` what single values may be (they are ``kinds``), ``consistency`` and
``issuer_consistency`` the checks between keys of a ``draft``, and ``messages`` what is wrong with a key and what would
be right (with ``key_hints``). ``warnings``, ``resource_warnings`` and ``rule_order`` (with ``strictness`` and
``match_sets``) look for dangerous settings that are valid. ``resources`` locates protected resources, and ``schema`` is
the JSON Schema.

``source`` reads the file, ``files`` any file that the configuration names, ``revocations`` the list of revocations and
``nonce_key`` the key of DPoP nonces; ``own_files`` are files that the service writes itself.

Reports every problem at once, each with its line and what would be right. Opens no sockets; checks that the files that
a configuration names can be read.
"""
