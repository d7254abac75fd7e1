#!/bin/sh
# Builds the image without a registry, with Debian's buildah, on a base from debootstrap instead of python:slim. Run it as root
# on Debian. It takes some minutes, and 1 GB in a temporary folder:
#
#   apt-get install buildah debootstrap
#   sh docker/check.sh
#
# It builds the image twice, compares the two, and runs it as its numeric user with a read-only root.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs

images() { buildah --root "$work/store" --runroot "$work/run" "$@"; }

debootstrap --variant=minbase --include=python3,python3-pip,python3-venv,ca-certificates stable "$work/base" >"$work/base.log"
cp /etc/ssl/certs/ca-certificates.crt "$work/base/etc/ssl/certs/"
printf 'FROM scratch\nCOPY base /\n' >"$work/Base"
images bud --quiet --tag localhost/base --file "$work/Base" "$work" >/dev/null

epoch=$(git log -1 --format=%ct)
build() {
  images bud --quiet --no-cache --network host --timestamp "$epoch" --build-arg SOURCE_DATE_EPOCH="$epoch" \
    --build-arg REVISION="$(git rev-parse HEAD)" --build-arg BASE=localhost/base --tag localhost/authz-service .
}
first=$(build)
second=$(build)
test "$first" = "$second" || { echo "two builds differ: $first $second" >&2; exit 1; }
echo "two builds are identical: $first"

container=$(images from localhost/authz-service)
root=$(images mount "$container")
mkdir -p "$root/run/authz"
cat >"$root/tmp/config.yaml" <<'YAML'
server: {grpc_address: "unix:/run/authz/authz.sock", admin_address: "127.0.0.1:0"}
issuers: [{issuer: "http://127.0.0.1:9", audiences: [a]}]
rules: [{name: all, match: {paths: ["/**"]}}]
YAML
unshare --mount sh -eu -c '
  mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"
  mount -t tmpfs tmpfs "$0/run/authz" && chown 65532:65532 "$0/run/authz"
  run="chroot --userspec 65532:65532 $0 /opt/authz-service/bin/authz-service"
  timeout 10 $run serve --config /tmp/config.yaml &
  sleep 3
  # It runs, and its health service reports NOT_SERVING because there are no keys.
  $run healthcheck --config /tmp/config.yaml | grep NOT_SERVING
  wait
' "$root"
echo "it runs as 65532 with a read-only root"
images umount "$container" >/dev/null
