#!/usr/bin/env bash
# Run a command in the project's own environment, making it first if need be:
#   launch/local.sh python -m launch.audit --config=configs/digits.py --workdir=runs/digits
# PYTHON=python3.12          the interpreter that a new .venv is made with
# JAXDIFF_EXTRAS=bench,cuda  further extras of pyproject.toml to install
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
stamp=$venv/.jaxdiff-installed

fail() { echo "launch/local.sh: $*" >&2; exit 2; }

[[ $# -gt 0 ]] || fail "no command; try: launch/local.sh python -m pytest"

if [[ ! -x $venv/bin/python ]]; then
  python=${PYTHON:-python3}
  command -v "$python" >/dev/null || fail "$python not found; install Python 3.11 or newer, or name it: PYTHON=/path/to/python3.12"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old; jaxdiff needs 3.11 or newer: PYTHON=/path/to/python3.12 launch/local.sh ..."
  "$python" -m venv "$venv" || fail "could not make $venv; on Debian: apt-get install python3-venv"
fi

# Extras add up: what one call installed, the next one keeps.
extras=$(printf 'test,%s,%s' "${JAXDIFF_EXTRAS:-}" "$(sed -n 's/^extras=//p' "$stamp" 2>/dev/null || true)" |
  tr ',' '\n' | sed '/^$/d' | LC_ALL=C sort -u | paste -sd, -)
# A name with a typing error would install nothing, and say done.
known=$(sed -n '/^\[project.optional-dependencies\]/,/^\[tool/s/^\([a-z]*\) = .*/\1/p' "$root/pyproject.toml" | paste -sd, -)
for extra in ${extras//,/ }; do
  [[ ,$known, == *,$extra,* ]] || fail "JAXDIFF_EXTRAS: no extra '$extra'; there is $known"
done
want=$(printf 'extras=%s\n' "$extras"; cat "$root/pyproject.toml" "$root/launch/constraints.txt" | cksum)
if [[ ! -f $stamp || $(<"$stamp") != "$want" ]]; then
  echo "launch/local.sh: installing jaxdiff[$extras] into $venv (a few minutes the first time)" >&2
  rm -f "$stamp"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$root/launch/constraints.txt" --editable "${root}[$extras]" ||
    fail "pip could not install jaxdiff[$extras]; its lines above say why (no network? set a pip index or proxy and run this again)"
  printf '%s\n' "$want" >"$stamp"
fi

export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH
exec "$@"
