"""Networks of other programs: measured, described, and made into models."""
