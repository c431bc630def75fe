#!/usr/bin/env bash
# Installs the Debian packages that restkv is built from, unless they are there already.
# Usage: bash launch/install_deps.sh [--tests]
#   --tests   also what the tests and the lints use
set -euo pipefail

# A | B: either will do; the first is installed when neither is there.
packages=(
  "g++" "cmake" "ninja-build" "pkg-config | pkgconf"
  "libopenmpi-dev" "openmpi-bin"
  "libopenblas-dev | libopenblas-openmp-dev | libopenblas-pthread-dev"
  "libfmt-dev" "libspdlog-dev" "nlohmann-json3-dev" "libyaml-cpp-dev" "libcli11-dev" "libpcre2-dev" "libutf8proc-dev"
  "libsentencepiece-dev"
  "python3" "python3-pip" "ca-certificates"
)
for option in "$@"; do
  case "$option" in
    --tests) packages+=("libgtest-dev" "git" "clang-format-14" "clang-tidy-14" "libomp-14-dev" "python3-matplotlib") ;;
    *) echo "install_deps.sh: unknown option $option; allowed: --tests" >&2; exit 2 ;;
  esac
done

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  printf '%s\n' "This is not a Debian-like system: nothing is installed. restkv is built from these packages:" \
    "${packages[@]}" >&2
  exit 0
fi

is_installed() {
  [ "$(dpkg-query -W -f='${db:Status-Abbrev}' "$1" 2>/dev/null | cut -c1-2)" = ii ]
}

missing=()
for alternatives in "${packages[@]}"; do
  found=no
  for name in ${alternatives//|/ }; do
    if is_installed "$name"; then found=yes; fi
  done
  if [ $found = no ]; then missing+=("${alternatives%% *}"); fi
done
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi

echo "Installing: ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "install_deps.sh: run this as root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
