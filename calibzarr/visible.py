"""Text from files, paths and prompts as it may be printed: it commands no terminal."""

import shlex
import unicodedata

_JOINERS = "\u200c\u200d"  # of scripts and of emoji, which end at what they join
_SHELL = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\t": "\\t"}


def visible(text: str) -> str:
    r"""A text with escapes in the place of what a terminal would obey, or show otherwise.

    That is all control characters but ends of lines and tabulators, those that are not seen or
    change the direction of writing, and bytes of file names that are no text.

    >>> visible("red \x1b[31m\u202e.png")
    'red \\x1b[31m\\u202e.png'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _escaped(character) if character not in "\n\t" and _is_hidden(character) else character
        for character in text
    )


def quoted(text: str) -> str:
    r"""A word for a shell, in quotes where it needs them; what is not seen is escaped.

    >>> quoted("a b"), quoted("it's \x1b")
    ("'a b'", "$'it\\'s \\x1b'")
    """
    if not any(map(_is_hidden, text)):
        return shlex.quote(text)
    return "$'" + "".join(map(_in_shell, text)) + "'"


def _is_hidden(character: str) -> bool:
    category = unicodedata.category(character)
    return category in ("Cc", "Cs", "Zl", "Zp") or (category == "Cf" and character not in _JOINERS)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def _in_shell(character: str) -> str:
    if character in _SHELL:
        return _SHELL[character]
    if not _is_hidden(character):
        return character
    # Four digits at most would take the next character in; a byte is told by two.
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
