from calibzarr.models import builtin


def test_models_lists_all_and_where_their_weights_are(run):
    code, out, _ = run("models")
    assert code == 0
    for name in builtin.MODELS:
        assert name in out
    assert "embedded" in out
    assert "missing" in out
