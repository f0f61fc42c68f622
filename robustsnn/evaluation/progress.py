"""What a long run tells whoever watches it; the silent default, which the command line replaces by bars."""

from __future__ import annotations


class Progress:
    """Receives the stages of a run. Every method may be overridden; none needs to be."""

    def start(self, stage: str, total: float) -> None:
        """A stage of ``total`` units of work begins; the one before it is over."""

    def advance(self, units: float, detail: str = "") -> None:
        """So much of the stage is done; ``detail`` says what is in hand."""

    def note(self, message: str) -> None:
        """Something worth a line of its own."""
