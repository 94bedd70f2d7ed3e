"""The stand-in driver is imported under its own name by the tests that use it, not collected under another."""

collect_ignore = ["lightonopu"]
