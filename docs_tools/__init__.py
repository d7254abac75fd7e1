"""Generates pages of the site from the program."""
