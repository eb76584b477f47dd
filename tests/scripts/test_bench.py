import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.files import ROOT
from tests.support.processes import fast_environment

BENCH = ROOT / "scripts" / "bench.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def report(directory):
    return run(directory, "build", "files", "old-files")


@pytest.fixture(scope="module")
def collect_report(directory):
    return run(directory, "collect", "bytes", "bytes-sd3")


@pytest.fixture(scope="module")
def analyze_report(directory):
    return run(directory, "analyze", "analyze")


@pytest.fixture(scope="module")
def legacy_report(directory):
    return run(directory, "legacy", "move")


@pytest.fixture(scope="module")
def advice_report(directory):
    return run(directory, "advice")


def run(directory, group, *entries):
    chosen = [part for entry in entries for part in ("--entry", entry)]
    command = [sys.executable, BENCH, group, "--quick", "--json", "--directory", directory]
    output = subprocess.run(
        [*command, *chosen], check=True, capture_output=True, text=True, env=fast_environment()
    ).stdout
    return json.loads(output)


def figure(report, what):
    return next(each for each in report["figures"] if each["what"] == what)


def test_all_ratios_are_finite_and_positive(report):
    measured = [each["measured"] for each in report["figures"]]
    assert len(measured) >= 10
    assert all(math.isfinite(ratio) and ratio > 0 for ratio in measured)


def test_only_the_entries_asked_for_are_run(report):
    assert {each["entry"] for each in report["figures"]} == {"files", "old-files"}


@pytest.mark.parametrize("what", ["bytes, float32 / npz", "bytes, float16 / npz"])
def test_store_is_smaller_than_files_by_its_target(report, what):
    assert figure(report, what)["met"] is True


def test_states_are_in_fewer_files_by_their_target(report):
    assert figure(report, "files / npz")["met"] is True


@pytest.mark.parametrize(
    "what",
    ["bytes of statistics / of the values that they are of", "bytes of statistics / 500 MB"],
)
def test_statistics_are_small_by_their_target(collect_report, what):
    assert figure(collect_report, what)["measured"] > 0
    assert figure(collect_report, what)["met"] is True


def test_the_loop_over_layers_agrees_with_every_analysis(analyze_report):
    # An entry fails where the two disagree.
    assert [each["entry"] for each in analyze_report["figures"]] == ["analyze"] * 3
    assert all(each["measured"] > 0 for each in analyze_report["figures"])


def test_a_small_analysis_takes_little_memory(analyze_report):
    assert figure(analyze_report, "peak memory of the whole analysis / 4 GiB")["met"] is True


def test_moving_to_the_old_layout_takes_no_more_bytes_than_numpy(legacy_report):
    what = "bytes of npz files, calibzarr / np.savez_compressed"
    assert figure(legacy_report, what)["met"] is True
    assert all(each["measured"] > 0 for each in legacy_report["figures"])


def test_advised_bits_beat_uniform_bits_of_equal_cost_by_a_decibel(advice_report):
    gains = [each for each in advice_report["figures"] if each["entry"] == "heart"]
    assert len(gains) == 3
    assert all(gain["measured"] >= 1 for gain in gains), gains


def test_every_entry_of_the_table_of_advice_has_figures(advice_report):
    figures = advice_report["figures"]
    entries = {each["entry"] for each in figures}
    assert entries == {
        *("weights", "activations", "together", "never-below", "prediction", "speed", "heart")
    }
    assert all(math.isfinite(each["measured"]) for each in figures)


def test_help_is_compared_with_a_group_of_as_many_commands(directory):
    ratio, seconds = run(directory, "help")["figures"]
    assert seconds["measured"] > 0
    assert 1 <= ratio["measured"] < 20


def test_a_pass_in_float16_has_time_peak_and_bytes(directory):
    figures = run(directory, "full-size", "sd3-medium-float16")["figures"]
    assert [each["what"] for each in figures] == [
        *("pass: seconds", "pass: peak, GiB", "pass: MB written")
    ]
    assert all(each["measured"] > 0 for each in figures)


@pytest.mark.skipif(sys.platform != "linux", reason="MLX has an optimised BLAS elsewhere")
def test_true_size_with_a_plain_blas_is_refused():
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    command = [sys.executable, BENCH, "full-size", "--quick"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 2
    assert "preload OpenBLAS" in result.stderr


def test_nothing_stays_on_the_disk(
    report, collect_report, analyze_report, legacy_report, advice_report, directory
):
    assert list(directory.iterdir()) == []


def test_a_benchmark_that_is_told_to_end_ends_with_its_children(tmp_path):
    command = [sys.executable, BENCH, "checkpoints", "--quick", "--directory", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=fast_environment()) as process:
        while not list(tmp_path.glob("*/*/a.zarr")):  # now the library handles signals
            assert process.poll() is None
            time.sleep(0.01)
        process.terminate()
        assert process.stdout.read() == b""  # nobody holds it open any more
    assert process.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_unknown_entry_is_named_with_those_there_are():
    result = subprocess.run(
        [sys.executable, BENCH, "build", "--entry", "speed"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "'speed' is none of overhead, old-files, batch, files, memory" in " ".join(
        result.stderr.split()
    )
