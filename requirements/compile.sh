#!/bin/sh
# Pins every package of the images and of CI, with hashes, from pyproject.toml and the *.in files beside this script.
#
#   requirements/compile.sh            write the files; versions that still satisfy are kept
#   requirements/compile.sh --upgrade  take the newest versions
#   requirements/compile.sh --check    write nothing; exit 1 if a file does not fit pyproject.toml any more
#
# The files are good for every Python from 3.11 on and name no registry: uv takes the one it is configured with.
# --check asks it for metadata, or only uv's cache where UV_OFFLINE=1 is set.
set -eu

cd "$(dirname "$0")/.."
mode="${1:-}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

compile() { # NAME ARGUMENTS...
  name="$1"
  shift
  target="$work/$name.txt"
  if [ "$mode" != --upgrade ] && [ -f "requirements/$name.txt" ]; then
    cp "requirements/$name.txt" "$target"
  fi
  # A first resolution may fork over platforms that a second one, which starts from its pins, joins again.
  for _pass in first second; do
    uv pip compile "$@" --output-file "$target" --universal --python-version 3.11 --generate-hashes \
      --no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet >/dev/null
  done
  if [ "$mode" != --check ]; then
    cp "$target" "requirements/$name.txt"
  elif ! cmp -s "$target" "requirements/$name.txt"; then
    echo "requirements/$name.txt does not fit pyproject.toml: run requirements/compile.sh and commit the result" >&2
    stale=1
  fi
}

case "$mode" in
  "" | --check | --upgrade) ;;
  *) echo "usage: $0 [--check | --upgrade]" >&2; exit 2 ;;
esac

stale=0
compile build requirements/build.in
compile dev pyproject.toml --extra operator --extra gateway --extra workers --extra dev
compile operator pyproject.toml --extra operator
compile gateway pyproject.toml --extra gateway
compile worker-lite pyproject.toml --extra workers
compile worker-vllm pyproject.toml --extra workers --extra train --extra vllm
compile worker-vllm-cpu pyproject.toml requirements/worker-vllm-cpu.in --extra workers --extra train \
  --override requirements/worker-vllm-cpu.overrides
# The tests of what needs torch run without vLLM, on a processor.
compile training pyproject.toml --extra workers --extra train --extra dev \
  --override requirements/worker-vllm-cpu.overrides
exit "$stale"
