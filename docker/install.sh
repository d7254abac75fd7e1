#!/bin/sh
# The install step of the Dockerfile: a virtual environment with authz-service and its wheels, and nothing to build with.
#
#   sh docker/install.sh FOLDER      in the root of the sources; python3 and the network are all that it needs
set -eu

folder=$1
builder=$(mktemp -d)
trap 'rm -rf "$builder"' EXIT

# What pip may install: the locked versions, by their hashes, and wheels alone, so that nothing of others is compiled or run here.
install() { python3 -m pip --python "$1/bin/python3" install --no-compile --only-binary ':all:' --require-hashes --requirement "$2"; }

# authz-service's own wheel is built apart, by locked versions as well.
python3 -m venv --without-pip "$builder/venv"
install "$builder/venv" requirements/build.txt
python3 -m pip --python "$builder/venv/bin/python3" wheel --no-deps --no-build-isolation --wheel-dir "$builder" .

# pip installs from outside, so that it is not in the image.
python3 -m venv --without-pip "$folder"
install "$folder" requirements/runtime.txt
python3 -m pip --python "$folder/bin/python3" install --no-compile --no-index --no-deps "$builder"/*.whl

# Compiled once, by content: a root that cannot be written needs no time stamps that agree.
"$folder/bin/python3" -m compileall -q --invalidation-mode unchecked-hash "$folder/lib"
find "$folder" -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH:-0}" {} +

# What was installed starts.
"$folder/bin/authz-service" version
