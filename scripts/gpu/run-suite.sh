#!/bin/sh
# Runs the suite of this archive with the Node.js that it brings: ./run-suite.sh [--device cuda:0|emu|cpu] [--only SECTION,…] [--out FILE].
here=$(cd "$(dirname "$0")" && pwd)
needed=$(sed -n 's/^ *"glibc": "\(.*\)",$/\1/p' "$here/manifest.json")
has=$(getconf GNU_LIBC_VERSION 2>/dev/null | sed 's/^glibc //')
if [ -z "$has" ] || [ "$(printf '%s\n%s\n' "$needed" "$has" | sort -V | head -n 1)" != "$needed" ]; then
  echo "This archive needs glibc $needed or newer; this system has ${has:-another C library}. Use a newer distribution, as Ubuntu 22.04 or Debian 12." >&2
  exit 1
fi
exec "$here/bin/node" "$here/scripts/gpu/suite.mjs" "$@"
