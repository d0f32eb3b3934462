"""What `make audit` makes of the answers of pip-audit, most of all where there is no network."""

import json
import sys
from pathlib import Path

import pytest

from tests.audit import CONSTRAINTS, audit

HOLE = {"name": "pillow", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": ["1.1"]}]}
WHOLE = {"name": "torch", "version": "2.0", "vulns": []}
UNKNOWN = {"name": "numpy", "version": "2.0", "skip_reason": "Dependency not found"}
OFFLINE = (
    "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='api.osv.dev', port=443): Max retries exceeded with url: "
    "/v1/query (Caused by NameResolutionError('Failed to resolve api.osv.dev'))"
)


@pytest.mark.parametrize(
    ("answer", "complaint", "ended", "status", "part"),
    [
        ("", OFFLINE, 1, 0, "audit skipped: the service of pip-audit cannot be reached."),
        ([UNKNOWN, UNKNOWN], "", 0, 0, "audit skipped: the service of pip-audit knows none of the 2 packages."),
        ("", "/bin/python: No module named pip_audit", 1, 0, "audit skipped: pip-audit is not installed"),
        ([WHOLE], "", 0, 0, "1 packages audited, 0 known holes."),
        (
            [HOLE, WHOLE, UNKNOWN],
            "",
            1,
            1,
            "pillow 1.0: CVE-1, mended in 1.1\n2 packages audited, 1 known holes, 1 are not",
        ),
        ("", "usage: pip-audit", 2, 1, "pip-audit failed:\nusage"),
    ],
)
def test_answers_of_the_tool(tmp_path: Path, answer, complaint, ended, status, part):
    tool = tmp_path / "tool.py"
    printed = json.dumps({"dependencies": answer}) if answer else ""
    tool.write_text(
        f"import sys\nassert {str(CONSTRAINTS)!r} in sys.argv\nprint({printed!r})\nprint({complaint!r}, file=sys.stderr)\n"
        f"sys.exit({ended})\n"
    )
    told, found = audit([sys.executable, str(tool)])
    assert (found, told.startswith(part)) == (status, True)


def test_without_the_tool_it_says_so():
    assert audit(["/nowhere/pip-audit"]) == ("audit skipped: pip-audit cannot be run (FileNotFoundError).", 0)
