#!/bin/sh
# The install step of the Dockerfile: a virtual environment with authz-service and its wheels, without build tools.
#
#   sh docker/install.sh FOLDER      in the root of the sources; requires only python3 and the network
set -eu

folder=$1
builder=$(mktemp -d)
trap 'rm -rf "$builder"' EXIT

# Install only locked versions with hashes, and only wheels, so that no third-party code is compiled or run here.
install() { python3 -m pip --python "$1/bin/python3" install --no-compile --only-binary ':all:' --require-hashes --requirement "$2"; }

# Build the wheel of authz-service in a separate environment, with a locked build backend.
python3 -m venv --without-pip "$builder/venv"
install "$builder/venv" requirements/build.txt
python3 -m pip --python "$builder/venv/bin/python3" wheel --no-deps --no-build-isolation --wheel-dir "$builder" .

# pip runs outside of the environment, so that it is not in the image.
python3 -m venv --without-pip "$folder"
install "$folder" requirements/runtime.txt
python3 -m pip --python "$folder/bin/python3" install --no-compile --no-index --no-deps "$builder"/*.whl

# Compile once, with hashes instead of time stamps, which would not match on a read-only root.
"$folder/bin/python3" -m compileall -q --invalidation-mode unchecked-hash "$folder/lib"
find "$folder" -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH:-0}" {} +

# Check that it starts.
"$folder/bin/authz-service" version
