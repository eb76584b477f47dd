import io
import os
import shutil
import subprocess
import unicodedata

import pytest
from rich.table import Table

from calibzarr.progress import VisibleConsole
from calibzarr.visible import quoted, visible

HOSTILE = "\x1b[2J\x9b31m\u202egnp.\u2066\x07\r\x00\x7f\u2028\ufeff\udcff"
PLAIN = "Käse “q” 漢字\u3000中 עברית می\u200cخواهم 👩\u200d🚀 é e\u0301\n\t[red]"


def commands_a_terminal(text):
    """Whether a text has what a terminal obeys, or what hides how a text is written."""
    kinds = {unicodedata.category(character) for character in text} - {"Cf"}
    directions = {unicodedata.bidirectional(character) for character in text}
    embedding = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return bool({"Cs", "Zl", "Zp"} & kinds) or bool(embedding & directions) or "\x1b" in text


def test_texts_of_all_scripts_stay_and_what_commands_is_escaped():
    assert visible(PLAIN) == PLAIN
    shown = visible(HOSTILE)
    assert shown.isascii()
    assert shown.isprintable()
    assert shown.startswith(r"\x1b[2J\x9b31m\u202egnp.\u2066\x07\r\x00")


def test_a_console_shows_what_it_does_not_obey(monkeypatch):
    table = Table(title=f"t{HOSTILE}", caption=HOSTILE)
    table.add_column(f"c{HOSTILE}")
    table.add_row(f"r{HOSTILE}")
    console = VisibleConsole()
    console.file, console.width = io.StringIO(), 100
    for printed in (f"p{HOSTILE}", table):
        console.print(printed)
    shown = console.file.getvalue()
    assert not commands_a_terminal(shown)
    assert shown.count(r"\x1b[2J") == 5
    lines = shown.splitlines()
    assert len({len(line.rstrip()) for line in lines if line[:1] in "┏┃┡│└"}) == 1


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("word", ["a b", "it's", "\x1b[0m'\\1", "é\u202e\n\tf", "\udcffabc", ""])
def test_a_shell_reads_a_quoted_word_as_it_is(word):
    line = f"printf %s {quoted(word)}"
    assert visible(line) == line
    read = subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout
    assert read == os.fsencode(word)
