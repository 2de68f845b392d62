"""A compiler that counts its calls and compiles the same sources only once."""

import os
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

from mnist_jax.native.library import find_compiler

# Like ccache: what was linked once is copied, and then nothing is compiled. `--version` is passed
# on. $FAULT says what goes wrong when it links.
SCRIPT = """#!/bin/sh
here=$(dirname "$0")
for output; do :; done
case "$*" in *--version*)
    [ "$FAULT" = version ] && exit 1
    {compiler} --version; exit ;;
esac
case "$output" in *.o)
    [ -e "$here/library" ] && {{ touch "$output"; exit; }}
    exec {compiler} "$@" ;;
esac
echo "$*" >> "$here/calls"
case "$FAULT" in
fails) echo "first line" >&2; printf 'second \\033[31m line\\n' >&2; exit 1 ;;
hangs) head -c 100000 "$here/library" > "$output"; touch "$here/hanging"; exec sleep 600 ;;
garbage) echo garbage > "$output"; exit ;;
esac
if [ ! -e "$here/library" ]; then
    {compiler} "$@" && cp "$output" "$here/library.$$" || exit
    mv "$here/library.$$" "$here/library"
fi
cp "$here/library" "$output"
"""


class Compiler(NamedTuple):
    directory: Path

    @property
    def program(self) -> Path:
        return self.directory / "c++"

    @property
    def command(self) -> list[str]:
        return [str(self.program)]

    def calls(self) -> int:
        log = self.directory / "calls"
        return len(log.read_text(encoding="utf-8").splitlines()) if log.exists() else 0


def create_compiler(directory: Path, library: Path | None = None) -> Compiler:
    """Makes the program; with a library that it copies, it never compiles."""
    directory.mkdir(parents=True, exist_ok=True)
    compiler = Compiler(directory)
    real = shlex.join([shutil.which(find_compiler()[0]) or "", *find_compiler()[1:]])
    compiler.program.write_text(SCRIPT.format(compiler=real), encoding="utf-8")
    compiler.program.chmod(0o755)
    if library:
        os.link(library, directory / "library")
    return compiler
