# Shared by compare and memory: the load generator and upstream of ../shared/bench, weir in release, LiteLLM.
# To be sourced.

. "$(dirname "${BASH_SOURCE[0]}")/../tests/lib.sh"
bench=$target/gwbench
litellm_version=1.106.2

# gateway_file NAME: the definition of a gateway, ours or that of the shared assets.
gateway_file() {
  local file
  for file in "$1" "$root/benches/gateways/$1.toml" "$shared/bench/gateways/$1.toml"; do
    [[ $file != *.toml || ! -f $file ]] || { realpath "$file"; return; }
  done
  die "no gateway is called $1: looked in benches/gateways and $shared/bench/gateways"
}

# set_up GATEWAY…: all that these gateways and the load need.
set_up() {
  need_shared bench/bench.py
  [ "$(nproc)" -ge 2 ] || die "2 cores are needed: one for the gateway, one for load and upstream"
  need_packages nginx=nginx-light wrk=wrk taskset=util-linux
  need_venv
  python3 -c 'import tomllib' 2>/dev/null || die "python3 is too old: 3.11 or later is needed"
  say "Building the load generator and the upstream"
  export GWBENCH_BIN=$bench/release GWBENCH_WORK=$bench/work MEASURE_LOCK=$bench/lock
  CARGO_TARGET_DIR=$bench cargo build --release --locked --quiet --manifest-path "$shared/bench/Cargo.toml"
  case " $* " in *" weir"*) find_weir release ;; esac
  export WEIR_BIN=${weir:-}
  case " $* " in *" litellm "*) set_up_litellm ;; esac
  rm -rf "$GWBENCH_WORK" && mkdir -p "$GWBENCH_WORK"
  MOCK_PORT=$(free_ports 1)
  export MOCK_PORT
  unset OPENAI_API_KEY
  ulimit -n "$(ulimit -Hn)" || true
}

set_up_litellm() {
  export LITELLM_BIN=$target/litellm/bin/litellm
  local installed=$target/litellm/installed-$litellm_version
  [ ! -e "$installed" ] || return 0
  say "Installing LiteLLM $litellm_version under $target/litellm"
  rm -rf "$target/litellm"
  python3 -m venv "$target/litellm"
  "$target/litellm/bin/pip" -q install "litellm[proxy]==$litellm_version"
  touch "$installed"
}
