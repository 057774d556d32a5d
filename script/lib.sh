# Shared by the scripts beside it; source it after `cd` to the top of the tree.
# shellcheck shell=bash

say() { printf '%s\n' "$*"; }

die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# A login that is not root has no sbin in its PATH, and iptables lives there.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

is_root() { [ "$(id -u)" = 0 ]; }

require_root() {
  is_root || die "works on the kernel's network tables and needs root: run  sudo script/$(basename "$0")${*:+ $*}"
}
