"""What is wrong with a model before anybody attacks it."""

from robustsnn.selftest.report import Finding, SelfTestReport
from robustsnn.selftest.testing import self_test

__all__ = ["Finding", "SelfTestReport", "self_test"]
