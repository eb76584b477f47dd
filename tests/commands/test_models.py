from calibzarr.models import builtin


def test_models_lists_all_and_where_their_weights_are(run):
    code, out, _ = run("models")
    assert code == 0
    for name in builtin.MODELS:
        assert name in out
    assert "embedded" in out
    assert "missing" in out


def test_models_say_size_licence_and_whether_they_are_gated(run):
    _, out, _ = run("models")
    words = " ".join(out.split())
    for entry in builtin.MODELS.values():
        assert f"{entry.weight_bytes / 10 ** (9 if entry.files else 6):.1f} " in words
    assert words.count("gated: unknown") == 4
    assert words.count("licence: ") == 5
    assert builtin.LICENCES_READ in words
