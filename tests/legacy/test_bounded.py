import pytest

from calibzarr.legacy.bounded import Unreadable, read_json


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot be read \(No such file"),
        ("{", r"is no JSON \(Expecting"),
        ("[" * 100_000, "has 100000 bytes, more than the 20000 that are read"),
        ("[" * 20_000, r"is no JSON \("),
        ("[1]", "is no JSON object, but a list"),
    ],
)
def test_what_cannot_be_used_is_told_without_the_name_of_the_file(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    with pytest.raises(Unreadable, match=f"^{message}"):
        read_json(tmp_path / "a.json", 20_000)


def test_an_object_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "a.json", 8) == {"a": 1}
