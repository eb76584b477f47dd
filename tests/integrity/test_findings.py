import json
from pathlib import Path

from calibzarr.integrity.findings import CHECKS, Finding, Report, Tally
from tests.support.files import ROOT


def tally():
    """Two images, of which the second is off twice, and statistics that are not."""
    first, second = Tally(), Tally()
    first.record("noise", [], image=0)
    first.record("noise", ["late", "loud"], image=1)
    second.record("noise", [], image=2)
    second.record("statistics", [])
    first.add(second)
    return first


def test_a_check_passes_where_nothing_was_found():
    assert tally().passed == {"noise": 2, "statistics": 1}
    assert tally().findings == [Finding("noise", 1, "late"), Finding("noise", 1, "loud")]


def test_a_report_counts_what_was_made_and_nothing_else():
    found = tally()
    report = Report(Path("a.zarr"), 4, (3,), dict(found.passed), tuple(found.findings))
    content = json.loads(json.dumps(report.as_json()))
    assert not report.ok
    assert content["checks"] == {
        "noise": {"passed": 2, "failed": 2},
        "statistics": {"passed": 1, "failed": 0},
    }
    assert content["incomplete"] == [3]
    assert content["findings"][0] == {"check": "noise", "image": 1, "message": "late"}
    assert Report(Path("a.zarr"), 4, (3,), {"noise": 3}, ()).ok


def test_every_check_is_documented_for_readers():
    text = (ROOT / "stores" / "README.md").read_text()
    table = text.partition("## What verify checks")[2].partition("\n\n##")[0]
    for name in CHECKS:
        assert f"`{name}`" in table
