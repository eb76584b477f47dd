import pytest

from calibzarr.legacy.bounded import Unreadable, read_json


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing"),
        ("{", r"is no JSON \(Expecting"),
        ("[" * 100_000, r"cannot be read \(it has 100000 bytes, more than the 20000"),
        ("[" + "9" * 5000 + "]", r"is no JSON \(Exceeds the limit"),
        ("[" * 20_000, r"is no JSON \("),
        ("[1]", "is no JSON object, but a list"),
    ],
)
def test_what_cannot_be_used_is_told_without_the_name_of_the_file(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    with pytest.raises(Unreadable, match=f"^{message}"):
        read_json(tmp_path / "a.json", 20_000)


def test_files_of_very_many_values_are_not_parsed(tmp_path):
    (tmp_path / "a.json").write_bytes(b"{}," * 3_000_000)
    with pytest.raises(Unreadable, match="has more than the 2000000 values that are read"):
        read_json(tmp_path / "a.json", 2**26)


def test_an_object_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "a.json", 8) == {"a": 1}
