#!/usr/bin/env bash
# Builds the images:  hack/images.sh [TAG] [FOLDER]
#
# The tag is `dev` unless given; with FOLDER each image is also saved there as a tar, for clusters that take images
# from files. TARGETS names some of the images, REGISTRY what their names begin with. Docker is used where it runs
# (unless BUILDER=podman), else podman. BASE names another base image; BASE=debootstrap makes one of Debian's packages
# (needs root and debootstrap), which is also what happens where no registry is reached.
#
# pip's settings in the environment (PIP_INDEX_URL, PIP_CERT, PIP_FIND_LINKS) go on to the build; files and folders
# among them are mounted where they are, which podman alone can do.
set -euo pipefail
cd "$(dirname "$0")/.."
tag=${1:-dev}
folder=${2:-}
registry=${REGISTRY:-localhost}
read -ra targets <<<"${TARGETS:-operator gateway worker worker-example}"

builder=()
if [ "${BUILDER:-docker}" = docker ] && docker info >/dev/null 2>&1; then
  builder=(docker)
elif command -v podman >/dev/null; then
  builder=(podman)
  if [ "$(id -u)" = 0 ] && command -v runc >/dev/null; then builder+=(--runtime runc --cgroup-manager=cgroupfs); fi
else
  echo "hack/images.sh: neither docker nor podman is here; on Debian: apt-get install podman runc" >&2
  exit 1
fi

arguments=(--build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)")
for name in PIP_INDEX_URL PIP_CERT PIP_FIND_LINKS; do
  value=${!name:-}
  arguments+=(--build-arg "$name=$value")
  [ -e "$value" ] && [ "${builder[0]}" = podman ] && arguments+=(-v "$value:$value:ro")
done
[ "${builder[0]}" = podman ] && arguments+=(--network=host --ulimit nofile=1024:1024 --ulimit nproc=4096:4096)

debian_mirror() {
  cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -v '^#' |
    grep -oE 'https?://[^ ]+/debian/?( |$)' | head -1 | tr -d ' '
}

make_base() { # a Debian with Python and nothing else, as localhost/penstock-base:bookworm
  local name=localhost/penstock-base:bookworm root
  "${builder[@]}" image exists "$name" 2>/dev/null && return
  root=$(mktemp -d)
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root" "$(debian_mirror)" >&2
  rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
  tar -C "$root" -c . | "${builder[@]}" import - "$name" >&2
  rm -rf "$root"
}

base=${BASE:-}
default=$(sed -n 's/^ARG BASE=//p' Dockerfile)
if [ -z "$base" ] && ! "${builder[@]}" image inspect "$default" >/dev/null 2>&1 &&
  ! "${builder[@]}" pull --quiet "$default" >/dev/null 2>&1; then
  echo "hack/images.sh: $default cannot be pulled; its place takes one made of Debian's packages" >&2
  base=debootstrap
fi
if [ "$base" = debootstrap ]; then
  make_base
  base=localhost/penstock-base:bookworm
fi
[ -n "$base" ] && arguments+=(--build-arg "BASE=$base")

for target in "${targets[@]}"; do
  image=$registry/penstock-$target:$tag
  "${builder[@]}" build --quiet "${arguments[@]}" --target "$target" --tag "$image" . >&2
  if [ -n "$folder" ]; then
    mkdir -p "$folder"
    rm -f "$folder/$target.tar"
    "${builder[@]}" save --output "$folder/$target.tar" "$image" >&2
  fi
  echo "$image"
done
