"""What the tests have tried, added up at the end of a session: examples, matrices, faults, …"""

import collections
import re

import pytest

EXAMPLES = "examples of Hypothesis"
_NAME = "tried"


class Summary:
    @pytest.fixture
    def tried(self, record_property):
        """A function that notes what a test has tried, and how many of them."""
        return lambda what, count: record_property(_NAME, (what, count))

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # around the one of Hypothesis
    def pytest_runtest_call(self, item):
        result = yield
        examples = re.findall(r"(\d+) passing", getattr(item, "hypothesis_statistics", ""))
        if examples:
            item.user_properties.append((_NAME, (EXAMPLES, sum(map(int, examples)))))
        return result

    def pytest_terminal_summary(self, terminalreporter):
        counts = collections.Counter()
        for report in terminalreporter.getreports("passed"):
            for name, value in report.user_properties:
                if name == _NAME:
                    what, count = value
                    counts[what] += count
        for what, count in sorted(counts.items()):
            terminalreporter.write_line(f"tried: {count} {what}")
