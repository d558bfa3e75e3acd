"""promtool judges what we ship: configuration, rules, and that each alert fires."""

import re
from pathlib import Path

import pytest

from tests.integration.prometheus.server import SHIPPED, promtool

ALERTS = re.findall(r"- alert: (\w+)", (SHIPPED / "alerts.yml").read_text(encoding="utf-8"))
RULE_TESTS = SHIPPED / "tests" / "alerts.yml"
RUNBOOK = SHIPPED.parents[1] / "docs" / "runbook.md"


def sections() -> dict[str, str]:
    """The runbook's text by the anchor of its heading."""
    parts = re.split(r"^### (\S+)$", RUNBOOK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip([name.lower() for name in parts[1::2]], parts[2::2], strict=True))


def test_the_configuration() -> None:
    assert "valid prometheus config" in promtool("check", "config", SHIPPED / "prometheus.yml")


def test_the_rules() -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", SHIPPED / "alerts.yml")


def test_every_alert_keeps_quiet_and_fires() -> None:
    tested = re.findall(r"- alertname: (\w+)", RULE_TESTS.read_text(encoding="utf-8"))
    # Once while all is well, once when it is not.
    assert sorted(tested) == sorted(ALERTS * 2)
    assert "SUCCESS" in promtool("test", "rules", RULE_TESTS)


def test_a_rule_that_does_not_fire_is_found(tmp_path: Path) -> None:
    """The tests above can fail: a threshold out of reach is noticed."""
    rules = (SHIPPED / "alerts.yml").read_text(encoding="utf-8")
    (tmp_path / "alerts.yml").write_text(rules.replace("== 0", "== 7"))
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "alerts.yml").write_text(RULE_TESTS.read_text(encoding="utf-8"))
    with pytest.raises(AssertionError, match="FAILED"):
        promtool("test", "rules", tmp_path / "tests" / "alerts.yml")


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_what_to_do(alert: str) -> None:
    text = (SHIPPED / "alerts.yml").read_text(encoding="utf-8")
    rule = text.partition(f"- alert: {alert}\n")[2].partition("- alert:")[0]
    assert re.search(r"severity: (critical|warning)$", rule, re.MULTILINE)
    assert re.search(r"summary: \S", rule)
    anchor = re.search(r"runbook_url: docs/runbook\.md#(\S+)$", rule, re.MULTILINE)
    assert anchor is not None
    section = sections()[anchor[1]]
    for part in ("**Symptom.**", "**Meaning.**", "**What to do.**"):
        assert part in section


def test_the_runbook_has_no_section_too_many() -> None:
    assert sorted(sections()) == sorted(alert.lower() for alert in ALERTS)
