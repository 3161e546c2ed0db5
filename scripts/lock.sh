#!/bin/sh
# Writes requirements.lock from pyproject.toml: what serves first, then what tests and checks.
# Universal: the same pins and hashes on every supported interpreter and platform. Needs uv.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
compile() { uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
    --no-emit-find-links --no-annotate "$@"; }
printf 'hatchling>=1.27\neditables>=0.5\n' > "$work/build.in"
compile pyproject.toml "$work/build.in" -o "$work/serve.txt"
compile pyproject.toml "$work/build.in" --group dev -c "$work/serve.txt" -o "$work/all.txt"
python3 scripts/lock_sections.py "$work/serve.txt" "$work/all.txt" > requirements.lock
