"""Turns one YAML file into frozen settings, in three stages: parse, validate, freeze.

Reports every problem at once, each with its line and what would be right. Opens no sockets; checks that the files that
a configuration names can be read.
"""
