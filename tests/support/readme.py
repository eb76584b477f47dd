"""The blocks of README.md, and a process that runs its lines in their order."""

import re
import shlex
import sys
import time
from dataclasses import replace

from calibzarr import cli
from calibzarr.models import builtin
from tests.support.files import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands(language):
    """Lines of calibzarr in the blocks of a language, split by the shell, without its name."""
    for block in blocks(language):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:3] == ["uv", "run", "calibzarr"]:
                yield words[3:]


def main(num_steps):
    """Run every ``bash`` line in this folder; end at the first that fails."""
    if num_steps:
        builtin.TINY = replace(builtin.TINY, num_steps=num_steps)
    for words in commands("bash"):
        print("$ calibzarr", *words, flush=True)
        start = time.monotonic()
        code = cli.cli.main(words, prog_name="calibzarr", standalone_mode=False)
        assert not code, words
        print(f"# {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
