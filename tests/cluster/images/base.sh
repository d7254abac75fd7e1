#!/bin/sh
# A Debian with Python in the folder `base`, as small as debootstrap makes it.
#
#   sh base.sh SUITE      as root; requires the network
set -eu

debootstrap --variant=minbase --include=python3,python3-pip,python3-venv,ca-certificates "$1" base
cd base
rm -rf dev/* proc/* sys/* usr/share/doc usr/share/info usr/share/locale usr/share/man var/cache/* var/lib/apt/lists/* var/log/*
