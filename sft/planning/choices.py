"""The reasons of resources, and what is worth a note, collected while they are resolved."""

from __future__ import annotations


class Choices:
    """Collects why resources are what they are.

    Attributes:
        reasons: Why a resource is what it is, by its name; of those that the recipe does not say literally.
        notes: What is done differently from what the recipe says, or slower than it could be; a line each.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self.notes: list[str] = []

    def because(self, name: str, reason: str) -> None:
        """Keep why a resource is what it is."""
        self.reasons[name] = reason

    def instead(self, name: str, setting: str, why: str, outcome: str) -> None:
        """Note that a setting is not honoured to the letter."""
        self.reasons[name] = why
        self.notes.append(f"{setting}: {why}; {outcome}")
