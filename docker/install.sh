#!/bin/sh
# The install step of the Dockerfile: a virtual environment with authz-service and its wheels, and nothing to build with.
#
#   sh docker/install.sh FOLDER      in the root of the sources; python3 and the network are all that it needs
set -eu

folder=$1

python3 -m venv --without-pip "$folder"
# pip installs from outside, so that it is not in the image. Wheels alone: nothing of a dependency is compiled or run here.
python3 -m pip --python "$folder/bin/python3" install --only-binary ':all:' --no-compile \
  --constraint "${CONSTRAINTS:-/dev/null}" .

# Compiled once, by content: a root that can not be written needs no time stamps that agree.
"$folder/bin/python3" -m compileall -q --invalidation-mode unchecked-hash "$folder/lib"
find "$folder" -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH:-0}" {} +

# What was installed starts.
"$folder/bin/authz-service" version
