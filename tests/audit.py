"""`python -m tests.audit`: known holes in the packages of constraints.txt, as pip-audit's service knows them.

Ends with 1 if there are some. Where the tool or its service cannot be had, it says so and ends with 0: no network is no hole.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
OPTIONS = (
    "--no-deps",
    "--disable-pip",
    "--progress-spinner",
    "off",
    "--format",
    "json",
    "--requirement",
    str(CONSTRAINTS),
)
UNREACHABLE = ("ConnectionError", "Max retries exceeded", "ConnectTimeout", "ReadTimeout", "ServiceError", "ProxyError")


def audit(tool: Sequence[str]) -> tuple[str, int]:
    """Ask a tool, and say in one line or a list what it found.

    Args:
        tool: Command that takes the options of pip-audit.

    Returns:
        What to print, and the exit status.
    """
    try:
        done = subprocess.run([*tool, *OPTIONS], capture_output=True, text=True, timeout=900, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"audit skipped: pip-audit cannot be run ({type(error).__name__}).", 0
    if "No module named pip_audit" in done.stderr:
        return "audit skipped: pip-audit is not installed (pip install 'cffa_hf[audit]').", 0
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        if any(sign in done.stderr for sign in UNREACHABLE):
            return "audit skipped: the service of pip-audit cannot be reached.", 0
        return f"pip-audit failed:\n{done.stderr[-2000:]}", 1
    known = [package for package in packages if "skip_reason" not in package]
    if not known:  # a mirror that serves packages, but not what is known of them
        return f"audit skipped: the service of pip-audit knows none of the {len(packages)} packages.", 0
    holes = [
        f"{package['name']} {package['version']}: {hole['id']}, mended in {', '.join(hole.get('fix_versions') or ['-'])}"
        for package in known
        for hole in package.get("vulns", [])
    ]
    left = f", {len(packages) - len(known)} are not known to the service" if len(known) < len(packages) else ""
    return "\n".join([*holes, f"{len(known)} packages audited, {len(holes)} known holes{left}."]), int(bool(holes))


if __name__ == "__main__":
    told, status = audit([sys.executable, "-m", "pip_audit"])
    print(told)
    sys.exit(status)
