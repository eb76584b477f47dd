from calibzarr.models import builtin


def test_what_cannot_be_fetched_is_told_with_one_command_a_line(run):
    code, out, err = run("download", "flux-dev")
    assert (code, out) == (1, "")
    repositories = dict(builtin.MODELS["flux-dev"].files)
    first, *commands = err.splitlines()[-1 - len(repositories) :]
    assert first.startswith("Error: flux-dev: argmaxinc/mlx-FLUX.1-dev cannot be fetched: ")
    assert [line.split()[:3] for line in commands] == [["hf", "download", r] for r in repositories]


def test_a_model_that_is_whole_needs_nothing_and_an_unknown_one_is_refused(run):
    assert run("download", "tiny", "-q")[:2] == (0, "tiny: all of its files are on this machine\n")
    code, out, err = run("download", "nobody/nothing")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "hf download nobody/nothing"
    code, _, err = run("download", "sdxl")
    assert code == 2
    assert "unknown model 'sdxl'" in err
