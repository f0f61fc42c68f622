"""What a self-test found, to read and to raise."""

from __future__ import annotations

from dataclasses import dataclass

from robustsnn.errors import RobustSNNError

ERROR, WARNING, INFO = "error", "warning", "info"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    ``severity`` is ``"error"`` (attacks on this model give wrong numbers), ``"warning"`` (they may) or ``"info"``.
    """

    name: str
    severity: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.severity} {self.name}: {self.message}" + (f"; {self.fix}" if self.fix else "")


@dataclass(frozen=True)
class SelfTestReport:
    """Findings, the gravest first, and the names of the probes that ran."""

    findings: tuple[Finding, ...]
    probes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """No errors; warnings there may be."""
        return not self.errors

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that make the numbers of an attack wrong."""
        return self._of(ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Findings that may make them wrong."""
        return self._of(WARNING)

    def raise_on_error(self) -> SelfTestReport:
        """The report itself where there is no error.

        Raises:
            RobustSNNError: naming every error and what to do about it, in one line.
        """
        if self.errors:
            text = " | ".join(f"{found.name}: {found.message}; {found.fix}" for found in self.errors)
            raise RobustSNNError(f"the model failed its self-test: {text}")
        return self

    def __str__(self) -> str:
        ran = f"{len(self.probes)} probes"
        if not self.findings:
            return f"self-test: nothing wrong found ({ran})"
        lines = [f"self-test: {len(self.errors)} errors, {len(self.warnings)} warnings ({ran})"]
        return "\n".join(lines + [f"  {finding}" for finding in self.findings])

    def _of(self, severity: str) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == severity)


def sorted_findings(findings: list[Finding]) -> tuple[Finding, ...]:
    """The gravest first, else in the order in which they were found."""
    return tuple(sorted(findings, key=lambda finding: (ERROR, WARNING, INFO).index(finding.severity)))
