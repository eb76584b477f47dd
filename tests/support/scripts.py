"""Prompts of all scripts."""

import random

_SCRIPTS = (
    (0x21, 0x7E),  # ASCII
    (0xC0, 0x17F),  # Latin with accents
    (0x391, 0x3C9),  # Greek
    (0x410, 0x44F),  # Cyrillic
    (0x5D0, 0x5EA),  # Hebrew
    (0x620, 0x652),  # Arabic and its marks
    (0x905, 0x94D),  # Devanagari
    (0xE01, 0xE4E),  # Thai
    (0x3041, 0x30FF),  # Japanese
    (0x4E00, 0x9FA5),  # Chinese
    (0xAC00, 0xD7A3),  # Korean
    (0x300, 0x33F),  # combining marks
    (0x2010, 0x2049),  # dashes, quotes, joiners, marks of direction
    (0x1F300, 0x1F64F),  # emoji
    (0x1D400, 0x1D4FF),  # mathematical letters
)
_BETWEEN = (" ", " ", " ", "  ", "\t", "\u00a0", "\u3000", ", ", "'s ", "…", "’s ", "“", "-", "3")


def mixed_prompts(count, seed):
    """Prompts of words of all scripts, one or several in each."""
    rng = random.Random(seed)

    def word(scripts):
        first, last = rng.choice(scripts)
        return "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 8)))

    prompts = []
    for _ in range(count):
        scripts = rng.sample(_SCRIPTS, rng.randint(1, 3))
        words = [word(scripts) + rng.choice(_BETWEEN) for _ in range(rng.randint(1, 20))]
        prompts.append("".join(words).strip() or "x")
    return prompts
